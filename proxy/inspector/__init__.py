"""The inspector processes: CPU-heavy inspection away from the workers' event loops, and the client that asks them."""
