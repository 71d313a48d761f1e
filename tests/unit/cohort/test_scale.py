from __future__ import annotations

import numpy as np
import pytest

from stray.cohort.scale import choose_microns_per_pixel, is_hexagonal, regressed_microns_per_pixel
from stray.errors import InputError

ROW, COL = (axis.ravel() for axis in np.meshgrid(np.arange(12), np.arange(10), indexing="ij"))


@pytest.mark.parametrize("mirror", [1, -1], ids=["as it is", "mirrored"])
@pytest.mark.parametrize("turn", [0.0, 0.4, np.pi / 2], ids=["upright", "tilted", "lying"])
def test_regression_finds_the_scale_whatever_the_turn_and_in_spite_of_jitter(turn: float, mirror: int) -> None:
    jitter = np.random.default_rng(0).normal(0, 10, (len(ROW), 2))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    xy = np.stack([mirror * COL, ROW], axis=1) * 291 @ rotation.T + (900, 400) + jitter
    found = regressed_microns_per_pixel(xy, ROW, COL, 200.0)
    assert found == pytest.approx(200 / 291, rel=0.005)


def test_a_hexagonal_array_is_measured_by_the_distance_of_neighbours() -> None:
    used = (ROW + COL) % 2 == 0
    row, col = ROW[used], COL[used]
    xy = np.stack([col * 0.5 * 100.0, row * np.sqrt(0.75) * 100.0], axis=1) / 0.5
    assert is_hexagonal(row, col, xy)
    assert is_hexagonal(row, col, xy[:, ::-1])
    assert regressed_microns_per_pixel(xy, row, col, 100.0) == pytest.approx(0.5)


def test_the_2k_array_of_classic_spatial_transcriptomics_is_not_hexagonal() -> None:
    used = (ROW + COL) % 2 == 0  # x + y even, as on Visium, but rows as far apart as columns
    row, col = ROW[used], COL[used]
    xy = np.stack([col, row], axis=1) * 145.0 + np.random.default_rng(0).normal(0, 5, (len(row), 2))
    assert not is_hexagonal(row, col, xy)
    neighbours_um = 141.4  # along the diagonals: 100 um a column and a row
    assert regressed_microns_per_pixel(xy, row, col, neighbours_um) == pytest.approx(100 / 145, rel=0.005)


def test_positions_that_do_not_follow_the_array_measure_nothing() -> None:
    xy = np.random.default_rng(0).uniform(0, 1000, (len(ROW), 2))
    assert regressed_microns_per_pixel(xy, ROW, COL, 200.0) is None


def test_spots_on_a_line_cannot_tell() -> None:
    assert regressed_microns_per_pixel(np.stack([COL, COL], axis=1), np.zeros_like(COL), COL, 200.0) is None


def test_a_disagreement_above_three_percent_is_told_with_both_numbers() -> None:
    value, warnings = choose_microns_per_pixel(0.6873, 0.5, "x", "")
    assert value == 0.6873
    assert "0.5" in warnings[0]
    assert "0.6873" in warnings[0]
    assert choose_microns_per_pixel(0.6873, 0.69, "x", "") == (0.6873, ())
    assert choose_microns_per_pixel(None, 0.69, "x", "") == (0.69, ())
    with pytest.raises(InputError, match="size of a pixel is unknown"):
        choose_microns_per_pixel(None, None, "x", "say it")
