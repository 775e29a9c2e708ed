"""What running costs: memory over a long run, commits, interference, large states."""
