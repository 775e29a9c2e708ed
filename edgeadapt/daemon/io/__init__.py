"""Sources that bring samples, sinks that take answers, and the broker between machines."""
