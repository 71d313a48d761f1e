"""stray beside other software, on the same data in one run."""
