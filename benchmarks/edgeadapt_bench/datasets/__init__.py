"""Pools, features, encoders and conditions that several suites measure on."""
