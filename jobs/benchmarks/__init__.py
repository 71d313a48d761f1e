"""stray beside other software on the same data, and its cost on Ray. Not part of the wheel."""
