"""Measures of embeddings: arrays in, floats out."""
