"""What a daemon tells about itself: metrics, time series, heat and power, systemd."""
