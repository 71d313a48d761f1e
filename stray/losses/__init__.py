"""Losses: pure functions of local embeddings, gathered embeddings and `rows`, so that one process can test any
layout.
"""
