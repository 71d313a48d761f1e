"""Glands: a ring of epithelium around a lumen, in loose stroma."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from stray.cohort.synthetic.canvas import Canvas
from stray.cohort.synthetic.layout import GLANDS
from stray.cohort.synthetic.nuclei import Nuclei, draw_nuclei

_SPACING_UM = 70.0
_RADIUS_UM = 25.0
_EPITHELIUM_UM = 12.0
_NUCLEUS_EVERY_UM = 6.5
_MOST_NUCLEI = 48


@dataclass(frozen=True, kw_only=True)
class _Glands:
    """N glands. Lengths in micrometres."""

    centers: np.ndarray
    """(N, 2)"""
    size: np.ndarray
    """Mean radius, (N,)."""
    wave: np.ndarray
    """Height of two and of three bumps around the border, as shares of the radius, (N, 2)."""
    phase: np.ndarray
    """Position of those bumps, radians, (N, 2)."""
    secretion: np.ndarray
    """Eosin in the lumen, (N,)."""

    def border(self, gland: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return distance from the centre of `gland` to its border in direction `theta`."""
        bumps = self.wave[gland] * np.cos(np.outer(theta, (2, 3)) + self.phase[gland])
        return self.size[gland] * (1.0 + bumps.sum(axis=1))

    def depth(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how deep points (N, 2) lie inside the nearest gland (negative outside), and which gland that is."""
        radius, nearest = KDTree(self.centers).query(xy)
        gland = np.asarray(nearest)
        away = xy - self.centers[gland]
        return self.border(gland, np.arctan2(away[:, 1], away[:, 0])) - radius, gland


def draw_glands(canvas: Canvas, nuclei: Nuclei, haematoxylin: np.ndarray, eosin: np.ndarray) -> Nuclei:
    """Draw glands into both dyes (Y, X), in place.

    Returns the `nuclei` that lie outside the glands, with those of the glands.
    """
    glands = _place(canvas)
    if not len(glands.centers):
        return nuclei
    # A gland's centre lies in its region, but the gland may reach over the border.
    away_um = np.asarray(distance_transform_edt(canvas.region != GLANDS)) * canvas.microns_per_pixel
    near = away_um < 1.4 * _RADIUS_UM
    depth, gland = glands.depth(canvas.pixels_of(near))
    body = canvas.cover(depth)
    lumen = canvas.cover(depth - _EPITHELIUM_UM)
    haematoxylin[near] = haematoxylin[near] * (1 - body) + 0.10 * (body - lumen)
    eosin[near] = eosin[near] * (1 - body) + 0.30 * (body - lumen) + glands.secretion[gland] * lumen
    depth, _ = glands.depth(nuclei.xy)
    return Nuclei.join([nuclei.take(depth < -1.5), _ring_nuclei(canvas, glands)])


def _place(canvas: Canvas) -> _Glands:
    rng = canvas.rng
    centers = canvas.scatter(_SPACING_UM, GLANDS, jitter=0.16)
    n = len(centers)
    size = _RADIUS_UM * np.exp(0.10 * canvas.sample(canvas.cellularity, centers) + rng.normal(0.0, 0.13, n))
    return _Glands(
        centers=centers,
        size=size,
        wave=rng.uniform(0.0, 0.08, (n, 2)),
        phase=rng.uniform(0.0, 2 * np.pi, (n, 2)),
        secretion=0.34 * rng.random(n) ** 1.5,
    )


def _ring_nuclei(canvas: Canvas, glands: _Glands) -> Nuclei:
    """Return nuclei side by side around each ring, their longer axes towards the lumen."""
    rng = canvas.rng
    # Slots beyond a gland's own number of nuclei stay empty.
    number = 2 * np.pi * (glands.size - 0.6 * _EPITHELIUM_UM) / _NUCLEUS_EVERY_UM
    number = np.clip(number, 5, _MOST_NUCLEI).astype(int)
    gland, slot = np.nonzero(np.arange(_MOST_NUCLEI)[None, :] < number[:, None])
    theta = 2 * np.pi * (slot + rng.uniform(-0.25, 0.25, len(slot))) / number[gland]
    depth = _EPITHELIUM_UM * rng.uniform(0.38, 0.62, len(slot))
    ring = np.maximum(glands.border(gland, theta) - depth, 1.0)
    xy = glands.centers[gland] + ring[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=1)
    radius = 3.1 * canvas.nucleus_scale
    return draw_nuclei(rng, xy, radius_um=radius, spread=0.1, aspect=(1.1, 1.8), stain=0.66, grain=0.3, angle=theta)
