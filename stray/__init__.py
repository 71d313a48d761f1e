"""stray: Ray-distributed training of pathology image encoders under the guidance of spatial transcriptomics.

Importing this package loads neither torch nor ray; each part loads what it needs when it is used.
"""

__version__ = "0.1.0"
