"""Contrastive stage: image codes meet gene codes in one space."""
