"""Nuclei of the synthetic tissue: where they lie, how they look, and stamping them all at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STAMPS_AT_ONCE = 2_000_000
"""Pixels stamped at once; bounds the memory of a large section."""


@dataclass(frozen=True, kw_only=True)
class Nuclei:
    """N ellipses of haematoxylin. Lengths in micrometres."""

    xy: np.ndarray
    """Centres, (N, 2)."""
    radius: np.ndarray
    """Half the longer and half the shorter axis, (N, 2)."""
    angle: np.ndarray
    """Direction of the longer axis in radians, (N,)."""
    stain: np.ndarray
    """Amount of haematoxylin at the centre, (N,)."""
    grain: np.ndarray
    """Patchiness of the chromatin, 0 to 1, (N,)."""

    def take(self, chosen: np.ndarray) -> Nuclei:
        """Return the nuclei that a mask (N,) chooses."""
        return Nuclei(
            xy=self.xy[chosen],
            radius=self.radius[chosen],
            angle=self.angle[chosen],
            stain=self.stain[chosen],
            grain=self.grain[chosen],
        )

    @classmethod
    def join(cls, groups: list[Nuclei]) -> Nuclei:
        """Return all nuclei of several groups."""
        return cls(
            xy=np.concatenate([group.xy for group in groups]),
            radius=np.concatenate([group.radius for group in groups]),
            angle=np.concatenate([group.angle for group in groups]),
            stain=np.concatenate([group.stain for group in groups]),
            grain=np.concatenate([group.grain for group in groups]),
        )


def draw_nuclei(
    rng: np.random.Generator,
    xy: np.ndarray,
    *,
    radius_um: float | np.ndarray,
    spread: float,
    aspect: tuple[float, float],
    stain: float,
    grain: float,
    angle: np.ndarray | None = None,
) -> Nuclei:
    """Draw nuclei of one cell type at `xy` (N, 2).

    `radius_um` is the usual radius of a disc of their area, `spread` the standard deviation of its logarithm, `aspect`
    the range of longer over shorter axis, `angle` their direction (any, when None).
    """
    n = len(xy)
    radius = radius_um * np.exp(np.clip(rng.normal(0.0, spread, n), -2 * spread, 2 * spread))
    ratio = np.sqrt(rng.uniform(*aspect, n))
    return Nuclei(
        xy=xy,
        radius=np.stack([radius * ratio, radius / ratio], axis=1),
        angle=rng.uniform(0.0, np.pi, n) if angle is None else angle,
        stain=stain * np.exp(rng.normal(0.0, 0.18, n)),
        grain=np.full(n, grain),
    )


def stamp_nuclei(
    nuclei: Nuclei, shape: tuple[int, int], microns_per_pixel: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw nuclei on an empty slide: haematoxylin and coverage (0 to 1), each (Y, X) float32.

    Where nuclei overlap the darker one is seen.
    """
    stain = np.zeros(shape, dtype=np.float32)
    cover = np.zeros(shape, dtype=np.float32)
    chromatin = rng.uniform(0.0, 1.0, shape).astype(np.float32)
    # Nuclei of like size share a window; a fibroblast's long axis does not set the window of every lymphocyte.
    reach = np.ceil(nuclei.radius[:, 0] / microns_per_pixel + 1.0).astype(int)
    for half in np.unique(reach):
        members = np.flatnonzero(reach == half)
        step = max(1, _STAMPS_AT_ONCE // (2 * half + 1) ** 2)
        for start in range(0, len(members), step):
            _stamp(nuclei, members[start : start + step], int(half), microns_per_pixel, chromatin, stain, cover)
    return stain, cover


def _stamp(
    nuclei: Nuclei,
    members: np.ndarray,
    half: int,
    microns_per_pixel: float,
    chromatin: np.ndarray,
    stain: np.ndarray,
    cover: np.ndarray,
) -> None:
    height, width = stain.shape
    offset = np.arange(-half, half + 1)
    center = nuclei.xy[members] / microns_per_pixel - 0.5  # pixel i covers [i, i + 1]: its middle is at i + 0.5
    nearest = np.rint(center).astype(int)
    column = nearest[:, 0, None, None] + offset[None, None, :]
    row = nearest[:, 1, None, None] + offset[None, :, None]
    dx = (column - center[:, 0, None, None]).astype(np.float32)
    dy = (row - center[:, 1, None, None]).astype(np.float32)
    cos = np.cos(nuclei.angle[members]).astype(np.float32)[:, None, None]
    sin = np.sin(nuclei.angle[members]).astype(np.float32)[:, None, None]
    radius = (nuclei.radius[members] / microns_per_pixel).astype(np.float32)
    reach = np.hypot((dx * cos + dy * sin) / radius[:, 0, None, None], (dy * cos - dx * sin) / radius[:, 1, None, None])
    # An edge one pixel wide around the ellipse: the anti-aliasing.
    coverage = np.clip((1.0 - reach) * radius[:, 1, None, None] + 0.5, 0.0, 1.0)
    seen = (coverage > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row * width + column)[seen]
    coverage = coverage[seen]
    of = np.broadcast_to(np.arange(len(members))[:, None, None], seen.shape)[seen]
    grain = nuclei.grain[members].astype(np.float32)[of]
    rim = 0.85 + 0.25 * np.minimum(reach[seen], 1.0) ** 2  # chromatin lies against the envelope
    amount = coverage * nuclei.stain[members].astype(np.float32)[of] * rim
    amount *= 1.0 + grain * (chromatin.ravel()[place] - 0.5)
    np.maximum.at(stain.ravel(), place, amount)
    np.maximum.at(cover.ravel(), place, coverage)
