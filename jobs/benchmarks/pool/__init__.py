"""Benchmark of the worker pool: how well a grid of runs fills its slots."""
