"""The gene stage beside scvi-tools, on one matrix."""
