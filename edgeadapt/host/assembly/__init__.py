"""Methods become the graphs of a bundle, and calibration data their numbers."""
