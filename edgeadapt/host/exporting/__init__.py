"""From an encoder and calibration data to a signed bundle: settings, heads, and what is fitted for
the device.
"""
