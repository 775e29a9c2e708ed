"""Small networks between encoder and head that a condition trains from its labels on the device,
and the family that a device searches. Nothing here decides when one is trained.
"""
