"""The plan of one synthetic section: outline, spots on a hexagonal array, tissue regions, and the continuous latents.

Legend: S spots, K classes, L latents; positions in micrometres from the section's upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stray.cohort.synthetic.fields import SmoothField, generator

CLASSES = ("invasive cancer", "breast glands", "connective tissue", "adipose tissue", "immune infiltrate")
"""The tissue classes, in the order of every array over K."""
CANCER, GLANDS, CONNECTIVE, ADIPOSE, IMMUNE = range(5)

LATENTS = ("cellularity", "fibrosis")
"""The continuous latents, in the order of every array over L: each drives both genes and picture within a class."""

PITCH_UM = 100.0
"""Distance of neighbouring spots, as on a Visium array."""
SPOT_RADIUS_UM = 27.5
"""Radius of the capture area of a spot, as on a Visium array."""
MARGIN_UM = 130.0
"""Tissue and glass drawn around the outermost spot centres."""

_USUAL_SHARES = np.array([0.30, 0.17, 0.25, 0.15, 0.13])
_LEAST_SHARE = 0.08
_REGION_LENGTH_UM = 125.0
_BORDER_LENGTH_UM = 22.0
_BORDER_ROUGHNESS = 0.12
_LATENT_LENGTH_UM = 150.0
_UNDECIDED = 1e-8
"""Difference of two classes' scores, far above the rounding of either way to sum them."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of one section: positions, classes and latents of its spots."""

    width_um: float
    height_um: float
    xy_um: np.ndarray
    """Spot centres, (S, 2)."""
    array_row: np.ndarray
    """Rows of the spot array, (S,)."""
    array_col: np.ndarray
    """Columns of the spot array, (S,); neighbours in a row are 2 apart, as on a Visium array."""
    composition: np.ndarray
    """Share of each class in the capture area of each spot, (S, K); rows sum to 1."""
    latents: np.ndarray
    """Continuous latents at each spot, mean 0 and variance 1 over the plane, (S, L)."""
    tissue: Outline
    regions: Regions
    latent_fields: tuple[SmoothField, ...]

    @property
    def label_index(self) -> np.ndarray:
        """The class that fills most of each spot's capture area, (S,)."""
        return self.composition.argmax(axis=1)


@dataclass(frozen=True)
class Outline:
    """The tissue's outline: a disc with a wavy border. Its score is above `level` on tissue."""

    center_um: np.ndarray
    radius_um: float
    wobble: SmoothField
    level: float

    def score(self, x_um: np.ndarray, y_um: np.ndarray, wobble: np.ndarray) -> np.ndarray:
        """Return height above the border in micrometres, up to the constant `level`; arrays broadcast together."""
        distance = np.hypot(x_um - self.center_um[0], y_um - self.center_um[1])
        return self.radius_um * 0.12 * wobble - distance

    def on_grid(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        """Return micrometres inside the border (negative on glass), (Y, X) float32."""
        score = self.score(x_um[None, :], y_um[:, None], self.wobble.on_grid(x_um, y_um))
        return (score - self.level).astype(np.float32)


@dataclass(frozen=True)
class Regions:
    """Tissue classes as the largest of K smooth fields, each with a bias that sets the class's share."""

    fields: tuple[SmoothField, ...]
    roughness: tuple[SmoothField, ...]
    biases: np.ndarray

    def scores_at(self, xy_um: np.ndarray) -> np.ndarray:
        """Return scores of the classes at points (..., 2), without their biases: (..., K)."""
        return np.stack(
            [f.at(xy_um) + _BORDER_ROUGHNESS * r.at(xy_um) for f, r in zip(self.fields, self.roughness, strict=True)],
            axis=-1,
        )

    def winners(self, xy_um: np.ndarray, offsets_um: np.ndarray) -> np.ndarray:
        """Return the class at points (S, 2) moved by each of `offsets_um` (D, 2): (S, D).

        That of `scores_at` with the biases at every point: where the fast sum leaves the two best scores closer than
        its rounding could decide, the slow one decides.
        """
        scores_SDK = np.stack(
            [
                f.around(xy_um, offsets_um) + _BORDER_ROUGHNESS * r.around(xy_um, offsets_um)
                for f, r in zip(self.fields, self.roughness, strict=True)
            ],
            axis=-1,
        )
        scores_SDK += self.biases
        found = scores_SDK.argmax(axis=-1)
        second, first = np.partition(scores_SDK, -2, axis=-1)[..., -2:].transpose(2, 0, 1)
        spot, offset = np.nonzero(first - second < _UNDECIDED)
        exact = self.scores_at(xy_um[spot] + offsets_um[offset]) + self.biases
        found[spot, offset] = exact.argmax(axis=-1)
        return found

    def on_grid(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        """Return the class of each pixel, (Y, X) int8."""
        best = np.full((len(y_um), len(x_um)), -np.inf, dtype=np.float32)
        region = np.zeros(best.shape, dtype=np.int8)
        for k, (field, rough) in enumerate(zip(self.fields, self.roughness, strict=True)):
            score = field.on_grid(x_um, y_um)
            score += np.float32(_BORDER_ROUGHNESS) * rough.on_grid(x_um, y_um) + np.float32(self.biases[k])
            region[score > best] = k
            np.maximum(best, score, out=best)
        return region


def draw_layout(seed: int, patient: int, section: int, n_spots: int) -> Layout:
    """Return the plan of a section (patient and section from 0): exactly `n_spots` spots, every class among them."""
    rng = generator(seed, "layout", patient, section)
    xy, row, col, outline, extent = _place_spots(rng, n_spots)
    shares = rng.dirichlet(_USUAL_SHARES * 30.0)
    shares = np.maximum(shares, _LEAST_SHARE)
    regions = Regions(
        tuple(SmoothField.draw(rng, _REGION_LENGTH_UM) for _ in CLASSES),
        tuple(SmoothField.draw(rng, _BORDER_LENGTH_UM) for _ in CLASSES),
        np.zeros(len(CLASSES)),
    )
    disc = _disc_points()
    biases = _fit_biases(regions.scores_at(xy + disc[0]), shares / shares.sum())
    regions = Regions(regions.fields, regions.roughness, biases)
    winners = regions.winners(xy, disc)
    composition = (winners[:, :, None] == np.arange(len(CLASSES))).mean(axis=1)
    latent_fields = tuple(SmoothField.draw(rng, _LATENT_LENGTH_UM) for _ in LATENTS)
    return Layout(
        width_um=extent[0],
        height_um=extent[1],
        xy_um=xy,
        array_row=row,
        array_col=col,
        composition=composition,
        latents=np.stack([field.at(xy) for field in latent_fields], axis=1),
        tissue=outline,
        regions=regions,
        latent_fields=latent_fields,
    )


def _place_spots(
    rng: np.random.Generator, n_spots: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Outline, tuple[float, float]]:
    """Return the `n_spots` array positions that lie deepest in the tissue."""
    rise = PITCH_UM * np.sqrt(3) / 2
    radius = np.sqrt(n_spots * PITCH_UM * rise / np.pi)
    reach = int(np.ceil(1.5 * radius / rise)) + 1
    row, pair = np.mgrid[0 : 2 * reach + 1, 0 : 2 * reach + 1]
    col = 2 * pair + row % 2
    row, col = row.ravel(), col.ravel()
    xy = np.stack([col * PITCH_UM / 2, row * rise], axis=1)
    outline = Outline(xy.mean(axis=0), radius, SmoothField.draw(rng, 0.55 * radius), 0.0)
    score = outline.score(xy[:, 0], xy[:, 1], outline.wobble.at(xy))
    kept = np.sort(np.argsort(-score, kind="stable")[:n_spots])
    row, col, xy = row[kept], col[kept], xy[kept]
    corner = xy.min(axis=0) - MARGIN_UM
    width, height = (float(side) for side in xy.max(axis=0) + MARGIN_UM - corner)
    # The wobble stays where it was: it is shifted with the corner by turning the phases of its waves.
    wobble = SmoothField(outline.wobble.waves, outline.wobble.phases + outline.wobble.waves @ corner)
    level = float(score[kept].min()) - 0.8 * PITCH_UM
    moved = Outline(outline.center_um - corner, radius, wobble, level)
    return xy - corner, row - row.min(), col - col.min(), moved, (width, height)


def _disc_points() -> np.ndarray:
    """Return points that fill a spot's capture area evenly, its centre first, (37, 2) micrometres."""
    index = np.arange(37)
    radius = SPOT_RADIUS_UM * np.sqrt(index / 37)
    angle = index * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _fit_biases(scores_SK: np.ndarray, shares_K: np.ndarray) -> np.ndarray:
    """Return biases with which the largest score falls to class k in about `shares_K[k]` of the spots, and in some
    always.
    """
    biases = np.zeros(len(shares_K))
    best, best_gap = biases.copy(), np.inf
    for step in range(200):
        counts = np.bincount((scores_SK + biases).argmax(axis=1), minlength=len(shares_K))
        actual = counts / len(scores_SK)
        gap = float(np.abs(actual - shares_K).sum()) + 10.0 * int((counts == 0).sum())
        if gap < best_gap:
            best, best_gap = biases.copy(), gap
        biases += (1.5 / (1 + 0.03 * step)) * (shares_K - actual)
    return best
