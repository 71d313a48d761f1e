"""Staining and scanning of a picture: Beer-Lambert with each patient's own haematoxylin and eosin, light and blur.

Transmitted light is background * 10^(-OD) with OD = haematoxylin * vector_H + eosin * vector_E in each colour channel.
Laboratories differ in the vectors (the dyes), in the amounts (time in the bath), in the light and in the sharpness; so
do the patients here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from stray.cohort.synthetic.fields import generator, spread_normals

_HAEMATOXYLIN = np.array([0.62, 0.70, 0.36])
_EOSIN = np.array([0.13, 0.93, 0.34])
"""Optical density in red, green, blue of a unit of each dye, length about 1."""
_ROWS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Stain:
    """Stain and scanner of one section."""

    vectors: np.ndarray
    """Optical density of a unit of haematoxylin and of eosin, (2, 3 colours)."""
    amounts: np.ndarray
    """Factors on the amounts of both dyes, (2,)."""
    light: np.ndarray
    """Colour of the empty slide, (3,), 0 to 1."""
    gamma: float
    """Exponent on the optical density: the scanner's contrast."""
    blur_um: float
    """Standard deviation of the focus blur in micrometres."""
    noise: float
    """Standard deviation of the sensor's noise, of full scale 1."""


def draw_stain(seed: int, patient: int, section: int) -> Stain:
    """Return the stain of patient `patient`, with a small difference for `section` (both from 0)."""
    size = spread_normals(seed, "stain", patient, 9)
    wobble = generator(seed, "stain section", patient, section).normal(0.0, 1.0, 9)
    values = np.clip(size + 0.15 * wobble, -2.2, 2.2)
    # Haematoxylin runs from blue to purple, eosin from pink to orange: one number turns each.
    haematoxylin = _HAEMATOXYLIN + values[0] * np.array([0.08, 0.01, -0.07])
    eosin = _EOSIN + values[1] * np.array([0.02, -0.03, 0.10])
    vectors = np.stack([haematoxylin, eosin])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Stain(
        vectors=vectors,
        amounts=np.exp(np.array([0.25, 0.26]) * values[2:4]),
        light=np.clip(0.935 + 0.03 * values[4] + np.array([0.0, 0.006, -0.022]) * values[5], 0.0, 0.985),
        gamma=float(np.exp(0.12 * values[6])),
        blur_um=float(1.1 * np.exp(0.15 * values[7])),
        noise=float(0.012 * np.exp(0.3 * values[8])),
    )


def render(
    haematoxylin: np.ndarray, eosin: np.ndarray, stain: Stain, microns_per_pixel: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the scanned picture of the dye amounts (Y, X) float32, as (Y, X, 3) uint8."""
    sigma = stain.blur_um / microns_per_pixel
    dyes = [
        gaussian_filter(dye, sigma, mode="nearest") * np.float32(amount)
        for dye, amount in zip((haematoxylin, eosin), stain.amounts, strict=True)
    ]
    picture = np.empty((*haematoxylin.shape, 3), dtype=np.uint8)
    vectors = stain.vectors.astype(np.float32)
    for start in range(0, len(picture), _ROWS_AT_ONCE):  # bounds the float copies of a large section
        rows = slice(start, start + _ROWS_AT_ONCE)
        density = dyes[0][rows, :, None] * vectors[0] + dyes[1][rows, :, None] * vectors[1]
        np.power(density, np.float32(stain.gamma), out=density)
        light = stain.light.astype(np.float32) * np.exp(np.float32(-np.log(10.0)) * density)
        light += np.float32(stain.noise) * rng.standard_normal(light.shape, dtype=np.float32)
        picture[rows] = np.clip(np.rint(light * 255.0), 0, 255).astype(np.uint8)
    return picture
