"""From the journal to a state: start, replay, roll back, forget, migrate."""
