"""The cohort: reading sections from sources, writing and reading the paired dataset."""
