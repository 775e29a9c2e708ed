"""One SQLite file in a state folder, and nothing of what its rows mean."""
