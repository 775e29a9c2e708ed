"""numpy only: solvers, statistics, hashes. Knows nothing of learners."""
