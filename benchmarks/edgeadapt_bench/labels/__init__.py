"""What labels do: recovery, new classes, the guard, questions, expected gain."""
