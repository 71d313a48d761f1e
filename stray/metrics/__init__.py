"""Measures of what an embedding knows: arrays in, floats out."""
