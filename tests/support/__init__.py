"""Cohorts, models and servers that several test files share."""
