"""Training loop, written once: it meets the world through a Worker, a Task and a Tracker and knows nothing of Ray."""
