"""Training: one loop for both stages, which meets the world through a Worker and a Tracker and knows nothing of Ray."""
