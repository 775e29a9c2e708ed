"""The learner and the daemon beside a bare loop."""
