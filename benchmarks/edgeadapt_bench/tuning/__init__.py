"""Deltas inside pretrained encoders, beside a probe and full tuning: on tasks with a control and a
twin on which rates are chosen.
"""
