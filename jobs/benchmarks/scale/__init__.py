"""Cost of a spot in synthetic cohorts of growing size."""
