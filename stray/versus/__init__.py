"""stray's models beside other implementations of the same models, on the same data."""
