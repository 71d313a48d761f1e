"""Contrastive stage: aligns image codes with gene codes in a shared space."""
