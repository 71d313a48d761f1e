"""Gene codes of stray and of scvi-tools, judged on held-out patients."""
