"""How a suite measures and reports: turns, child processes, rows, needs, plots."""
