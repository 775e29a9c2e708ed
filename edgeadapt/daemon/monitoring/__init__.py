"""What a daemon says of itself: metrics, time series, heat and power, systemd."""
