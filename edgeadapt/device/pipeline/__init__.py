"""Labels and full windows on their way to the worker, and what the worker does now and then."""
