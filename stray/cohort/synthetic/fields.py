"""Random generators of the synthetic cohort, and smooth random fields over the tissue.

A field is a function of the position, so spots and picture see the same tissue at any resolution, and a section of any
size costs no memory beyond its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

_WAVES = 64
_BLOCK = 6


def generator(seed: int, stream: str, *place: int) -> np.random.Generator:
    """Return the generator of one purpose (`stream`) at one place (patient, section): a function of its arguments
    alone.

    Sections can therefore be made in any order, on any machine, and a larger cohort contains the smaller one.
    """
    key = int.from_bytes(stream.encode(), "little") % (1 << 32)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key, *place)))


def spread_normals(seed: int, stream: str, patient: int, size: int) -> np.ndarray:
    """Return `size` standard normal numbers for `patient` (from 0), spread evenly over the patients of one cohort.

    A Latin hypercube for every six patients: in each number, one of them lies in each sixth of the distribution, so
    one cohort is about as hard as another. Independent draws would now and then give six patients one and the same
    stain.
    """
    block, place = divmod(patient, _BLOCK)
    rng = generator(seed, stream, block)
    sixth = rng.permuted(np.tile(np.arange(_BLOCK), (size, 1)), axis=1)
    inside = rng.uniform(0.1, 0.9, sixth.shape)
    return ndtri((sixth + inside)[:, place] / _BLOCK)


@dataclass(frozen=True)
class SmoothField:
    """A stationary Gaussian random field of mean 0 and variance 1 over the plane, made of cosine waves.

    Its correlation is exp(-d^2 / (2 length^2)) at distance d.
    """

    waves: np.ndarray
    """Wave vectors in radians per micrometre, (W, 2)."""
    phases: np.ndarray
    """(W,)"""

    @classmethod
    def draw(cls, rng: np.random.Generator, length_um: float) -> SmoothField:
        """Return a field whose correlation length is `length_um` micrometres."""
        return cls(rng.normal(0.0, 1.0 / length_um, (_WAVES, 2)), rng.uniform(0.0, 2 * np.pi, _WAVES))

    def at(self, xy_um: np.ndarray) -> np.ndarray:
        """Return values at points (..., 2), in micrometres."""
        return np.cos(xy_um @ self.waves.T + self.phases).sum(axis=-1) * np.sqrt(2.0 / _WAVES)

    def around(self, xy_um: np.ndarray, offsets_um: np.ndarray) -> np.ndarray:
        """Return values at points (S, 2) moved by each of `offsets_um` (D, 2), in micrometres: (S, D).

        Equal to `at` but for rounding, some 1e-12, and much faster: the cosine of a sum is a matrix product of
        sines and cosines.
        """
        angle, turn = xy_um @ self.waves.T + self.phases, offsets_um @ self.waves.T
        parts = np.cos(angle) @ np.cos(turn).T - np.sin(angle) @ np.sin(turn).T
        return parts * np.sqrt(2.0 / _WAVES)

    def on_grid(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        """Return values on the grid of columns `x_um` (X,) and rows `y_um` (Y,): (Y, X) float32.

        A wave is a product of a function of x and one of y, so the sum over waves is one matrix product.
        """
        along_x = np.exp(1j * (self.waves[:, :1] * x_um[None, :] + self.phases[:, None])).astype(np.complex64)
        along_y = np.exp(1j * (self.waves[:, 1:] * y_um[None, :])).astype(np.complex64)
        # The real part of a product of complex numbers, as two real products: half the work of a complex one.
        real = along_y.real.T @ along_x.real - along_y.imag.T @ along_x.imag
        return real * np.float32(np.sqrt(2.0 / _WAVES))


def jittered_points(
    rng: np.random.Generator, width_um: float, height_um: float, spacing_um: float, jitter: float = 0.35
) -> np.ndarray:
    """Return points scattered evenly over [0, width] x [0, height]: a hexagonal lattice, each moved at random, (N, 2).

    Cells do not overlap much: a lattice with jitter keeps them apart without a search for neighbours.
    `jitter` is the largest move along an axis as a share of the spacing.
    """
    rise = spacing_um * np.sqrt(3) / 2
    rows, columns = (int(np.ceil(height_um / rise)) + 1, int(np.ceil(width_um / spacing_um)) + 1)
    row, column = np.mgrid[0:rows, 0:columns]
    points = np.stack([(column + 0.5 * (row % 2)) * spacing_um, row * rise], axis=-1).reshape(-1, 2)
    return points + rng.uniform(-jitter, jitter, points.shape) * spacing_um
