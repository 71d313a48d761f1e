"""Samplers and schedulers of the search on a synthetic problem with a known best region."""
