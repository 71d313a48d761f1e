"""Training loop for all stages. It depends on a Worker, a Task and a Tracker, and not on Ray."""
