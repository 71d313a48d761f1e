"""A cohort with known truth: tissue classes, patient batch effects, and a link between picture and genes.

Sections are made one at a time, each a function of (seed, patient, section) and of the sizes, so a cohort of any
number of sections streams through the memory of one.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import sparse

from stray.cohort.synthetic.counts import draw_counts, gene_symbols
from stray.cohort.synthetic.fields import generator
from stray.cohort.synthetic.layout import CLASSES, LATENTS, PITCH_UM, Layout, draw_layout
from stray.cohort.synthetic.stain import draw_stain, render
from stray.cohort.synthetic.tissue import draw_tissue

__all__ = [
    "CLASSES",
    "DRAWING_VERSION",
    "LATENTS",
    "PITCH_UM",
    "Layout",
    "class_names",
    "draw_image",
    "draw_layout",
    "draw_section_counts",
    "gene_symbols",
]

DRAWING_VERSION = 1
"""Raised whenever the same settings give another cohort, so that an ingest does not keep sections of the old one."""


def draw_image(seed: int, patient: int, section: int, n_spots: int, microns_per_pixel: float) -> Image.Image:
    """The H&E-like picture of one section (patient and section from 0); micrometre 0 is its upper left corner."""
    layout = draw_layout(seed, patient, section, n_spots)
    haematoxylin, eosin = draw_tissue(seed, patient, section, layout, microns_per_pixel)
    stain = draw_stain(seed, patient, section)
    rng = generator(seed, "scan", patient, section)
    return Image.fromarray(render(haematoxylin, eosin, stain, microns_per_pixel, rng))


def draw_section_counts(seed: int, patient: int, section: int, n_spots: int, n_genes: int) -> sparse.csr_matrix:
    """The raw counts of one section, (spots, genes) int64, in the order of `draw_layout`'s spots."""
    return draw_counts(seed, patient, section, draw_layout(seed, patient, section, n_spots), n_genes)


def class_names(layout: Layout) -> np.ndarray:
    """The class of each spot: the one that fills most of its capture area, (S,) object."""
    return np.array(CLASSES, dtype=object)[layout.label_index]
