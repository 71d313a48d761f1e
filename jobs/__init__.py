"""Scripts that a cluster runs."""
