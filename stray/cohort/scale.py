"""Micrometres per pixel, by regressing pixels on the positions of the capture array."""

from __future__ import annotations

import numpy as np

from stray.errors import InputError, Problem

_DISAGREEMENT = 0.03
_FEWEST_SPOTS = 8
VISIUM_PITCH_UM = 100.0


def is_hexagonal(row: np.ndarray, col: np.ndarray) -> bool:
    """Whether array positions are those of a hexagonal grid: only every other place of each row is used."""
    return len(row) >= _FEWEST_SPOTS and len(np.unique((row + col) % 2)) == 1 and len(np.unique(row % 2)) == 2


def regressed_microns_per_pixel(xy_px: np.ndarray, row: np.ndarray, col: np.ndarray, pitch_um: float) -> float | None:
    """Micrometres per pixel of the affine map from the array to pixels; None where the spots cannot tell.

    A regression over all spots, since the distance of neighbours is biased by their jitter. `pitch_um` is the distance
    of neighbours: along rows and columns of a square array, in all six directions of a hexagonal one.
    """
    if len(row) < _FEWEST_SPOTS:
        return None
    across, down = (0.5, 0.75**0.5) if is_hexagonal(row, col) else (1.0, 1.0)
    design = np.stack([col * across * pitch_um, row * down * pitch_um, np.ones(len(row))], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design.astype(float), xy_px, rcond=None)
    if rank < 3:
        return None
    # The map may rotate and mirror: its area factor is what a length scales by, squared.
    pixels_per_micron = float(np.sqrt(abs(np.linalg.det(solution[:2]))))
    return 1 / pixels_per_micron if pixels_per_micron > 0 else None


def choose_microns_per_pixel(
    regressed: float | None, stated: float | None, place: str, remedy: str
) -> tuple[float, tuple[str, ...]]:
    """The value to use and what to warn of: the regression wins, a disagreement above 3% is told with both numbers.

    Raises InputError, with `remedy`, when there is neither.
    """
    if regressed is None and stated is None:
        raise InputError(Problem(place, "the size of a pixel is unknown", remedy))
    if regressed is None:
        assert stated is not None
        return stated, ()
    if stated is not None and abs(stated / regressed - 1) > _DISAGREEMENT:
        apart = abs(stated / regressed - 1)
        both = f"the file says {stated:.4g} um per pixel, the array's spots {regressed:.4g} ({apart:.0%} apart)"
        return regressed, (f"{both}: the spots' value is used",)
    return regressed, ()
