"""Canvas of a drawn section: its fields on the pixel grid, and ways to sample and scatter on them.

Legend: Y, X pixels of the section image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stray.cohort.synthetic.fields import SmoothField, generator, jittered_points, spread_normals
from stray.cohort.synthetic.layout import Layout

_WAVE_HEIGHT_UM = 55.0
"""Distance that the wavy part moves the fibres."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Fields that every drawing step reads, (Y, X) float32 unless stated."""

    layout: Layout
    rng: np.random.Generator
    microns_per_pixel: float
    x_um: np.ndarray
    """Middle of each pixel column, (X,)."""
    y_um: np.ndarray
    """Middle of each pixel row, (Y,)."""
    region: np.ndarray
    """Class of each pixel, (Y, X) int8."""
    cellularity: np.ndarray
    fibrosis: np.ndarray
    fibre: np.ndarray
    """Collagen fibres, 0 between and 1 on them."""
    fibre_direction: SmoothField
    fibre_slope: np.ndarray
    nucleus_scale: float
    """The patient's own factor on the radius of nuclei."""
    fat_scale: float
    """The patient's own factor on the size of fat cells."""

    def cover(self, inside_um: np.ndarray) -> np.ndarray:
        """Return share of a pixel on the inner side of a border that lies `inside_um` away: anti-aliasing."""
        return np.clip(inside_um / self.microns_per_pixel + 0.5, 0.0, 1.0).astype(np.float32)

    def pixels_of(self, chosen: np.ndarray) -> np.ndarray:
        """Return positions of the pixels of a mask (Y, X), (N, 2) micrometres."""
        row, column = np.nonzero(chosen)
        return np.stack([self.x_um[column], self.y_um[row]], axis=1)

    def sample(self, grid: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Return values of a grid (Y, X) at points (N, 2), nearest pixel; points outside take the border's."""
        column = np.clip((xy[:, 0] / self.microns_per_pixel).astype(int), 0, grid.shape[1] - 1)
        row = np.clip((xy[:, 1] / self.microns_per_pixel).astype(int), 0, grid.shape[0] - 1)
        return grid[row, column]

    def scatter(self, spacing_um: float, region: int | None, jitter: float = 0.35) -> np.ndarray:
        """Return points `spacing_um` apart in the pixels of one class (everywhere, when None), (N, 2)."""
        points = jittered_points(self.rng, self.layout.width_um, self.layout.height_um, spacing_um, jitter)
        return points if region is None else points[self.sample(self.region, points) == region]

    def thin(self, points: np.ndarray, share: np.ndarray | float) -> np.ndarray:
        """Keep each point with probability `share`."""
        return points[self.rng.random(len(points)) < share]

    def along_fibres(self, xy: np.ndarray) -> np.ndarray:
        """Return the direction of the fibres at points, radians (N,): at right angles to the gradient that makes
        them.
        """
        step = 1.0
        gradient = [
            slope
            + _WAVE_HEIGHT_UM * (self.fibre_direction.at(xy + move) - self.fibre_direction.at(xy - move)) / (2 * step)
            for slope, move in zip(self.fibre_slope, np.eye(2) * step, strict=True)
        ]
        return np.arctan2(gradient[1], gradient[0]) + np.pi / 2


def prepare(seed: int, patient: int, section: int, layout: Layout, microns_per_pixel: float) -> Canvas:
    """Return the canvas of one section: its fields at the middle of every pixel."""
    rng = generator(seed, "tissue", patient, section)
    x_um = (np.arange(int(np.ceil(layout.width_um / microns_per_pixel))) + 0.5) * microns_per_pixel
    y_um = (np.arange(int(np.ceil(layout.height_um / microns_per_pixel))) + 0.5) * microns_per_pixel
    own = spread_normals(seed, "morphology", patient, 3)
    # Fibres are the level lines of a slanted, wavy surface: parallel, wavy, never crossing.
    direction = SmoothField.draw(rng, 95.0)
    angle = rng.uniform(0.0, 2 * np.pi)
    slope = np.array([np.cos(angle), np.sin(angle)])
    height = _WAVE_HEIGHT_UM * direction.on_grid(x_um, y_um)
    height += (slope[0] * x_um[None, :] + slope[1] * y_um[:, None]).astype(np.float32)
    fibre = np.zeros_like(height)
    for width_um, weight in ((26.0, 0.30), (12.0, 0.40), (6.5, 0.30)):
        width_um *= float(np.exp(0.10 * own[2]))
        turns = height / np.float32(width_um) + 0.35 * SmoothField.draw(rng, 2.0 * width_um).on_grid(x_um, y_um)
        fibre += np.float32(weight) * (0.5 + 0.5 * np.cos(np.float32(2 * np.pi) * turns))
    latents = [field.on_grid(x_um, y_um) for field in layout.latent_fields]
    return Canvas(
        layout=layout,
        rng=rng,
        microns_per_pixel=microns_per_pixel,
        x_um=x_um,
        y_um=y_um,
        region=layout.regions.on_grid(x_um, y_um),
        cellularity=latents[0],
        fibrosis=latents[1],
        fibre=fibre,
        fibre_direction=direction,
        fibre_slope=slope,
        nucleus_scale=float(np.exp(0.06 * own[0])),
        fat_scale=float(np.exp(0.10 * own[1])),
    )
