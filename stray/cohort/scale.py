"""Micrometres per pixel, by regressing pixels on the positions of the capture array."""

from __future__ import annotations

import numpy as np

from stray.errors import InputError, Problem

_DISAGREEMENT = 0.03
_FEWEST_SPOTS = 8
VISIUM_PITCH_UM = 100.0


def array_steps(xy_px: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray | None:
    """Return pixels (x, y) that one column and one row of the array take, (2, 2); None where the spots cannot tell.

    A regression over all spots, since the distance of neighbours is biased by their jitter.
    """
    if len(row) < _FEWEST_SPOTS:
        return None
    design = np.stack([col, row, np.ones(len(row))], axis=1).astype(float)
    solution, _, rank, _ = np.linalg.lstsq(design, xy_px, rcond=None)
    apart = float(np.median(np.linalg.norm(design @ solution - xy_px, axis=1)))
    # Positions that do not follow the array are no measure.
    fits = rank == 3 and apart < 0.5 * np.linalg.norm(solution[:2], axis=1).max()
    return solution[:2] if fits else None


def is_hexagonal(row: np.ndarray, col: np.ndarray, xy_px: np.ndarray) -> bool:
    """Return whether array positions are those of a hexagonal grid, such as Visium's.

    Only every other place of each row is used, as in the 2K arrays of classic Spatial Transcriptomics; the spacing
    decides: a row is 1.73 times as far as a column on a hexagonal grid, and as far on a checkered one.
    """
    if not _every_other(row, col):
        return False
    steps = array_steps(xy_px, row, col)
    if steps is None:
        return False
    across, down = np.linalg.norm(steps, axis=1)
    return bool(abs(np.log(down / across)) > np.log(3) / 4)


def regressed_microns_per_pixel(xy_px: np.ndarray, row: np.ndarray, col: np.ndarray, pitch_um: float) -> float | None:
    """Return micrometres per pixel of the affine map from the array to pixels; None where the spots cannot tell.

    `pitch_um` is the distance of nearest neighbours: along rows and columns of a square array, along the diagonals of
    a checkered one, in all six directions of a hexagonal one.
    """
    steps = array_steps(xy_px, row, col)
    if steps is None:
        return None
    # The area of one column times one row: the map may rotate and mirror.
    area = 1.0
    if _every_other(row, col):
        area = 0.5 * 0.75**0.5 if is_hexagonal(row, col, xy_px) else 0.5
    pixels_per_micron = float(np.sqrt(abs(np.linalg.det(steps)) / area)) / pitch_um
    return 1 / pixels_per_micron if pixels_per_micron > 0 else None


def _every_other(row: np.ndarray, col: np.ndarray) -> bool:
    return len(row) >= _FEWEST_SPOTS and len(np.unique((row + col) % 2)) == 1 and len(np.unique(row % 2)) == 2


def choose_microns_per_pixel(
    regressed: float | None, stated: float | None, place: str, remedy: str, reason: str = ""
) -> tuple[float, tuple[str, ...]]:
    """Return the value to use and what to warn of: the regression wins, a disagreement above 3% is told with both
    numbers.

    Raises InputError, with `reason` and `remedy`, when there is neither.
    """
    if regressed is None and stated is None:
        what = "the size of a pixel is unknown" + (f": {reason}" if reason else "")
        raise InputError(Problem(place, what, remedy))
    if regressed is None:
        assert stated is not None
        return stated, ()
    if stated is not None and abs(stated / regressed - 1) > _DISAGREEMENT:
        apart = abs(stated / regressed - 1)
        both = f"the file says {stated:.4g} um per pixel, the array's spots {regressed:.4g} ({apart:.0%} apart)"
        return regressed, (f"{both}: the spots' value is used; where it is wrong, correct the source's `pitch_um`",)
    return regressed, ()
