"""Figures of a search from trials as they can be: few, stopped, failed, alike, with and without a parameter."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stray.report.search_figures import TrialPoint, search_figures
from stray.report.style import save_png

ALL = {"history", "slices", "rungs", "parallel_coordinates", "importances", "contour"}


def trial(number: int, state: str = "complete", **settings: object) -> TrialPoint:
    score = 0.4 + 0.01 * (number % 5) if state == "complete" else math.nan
    curve = {} if state == "failed" else {1: 0.3 + 0.01 * number, 2: 0.35}
    values = {"lr": 10.0 ** -(1 + number % 4), "weight": number / 10, "head": ("linear", "mlp")[number % 2], **settings}
    return TrialPoint(number=number, settings=values, score=score, state=state, curve=curve)


def flat(number: int) -> TrialPoint:
    return TrialPoint(number=number, settings={"lr": 0.1}, score=0.5, state="complete", curve={})


MIXED = [trial(n, ("complete", "complete", "pruned")[n % 3]) for n in range(12)]


@pytest.mark.parametrize(
    ("trials", "importances", "expected"),
    [
        (MIXED, {"lr": 0.7, "weight": 0.3}, ALL),
        (MIXED, {}, ALL - {"importances"}),
        ([*MIXED, trial(12, "failed"), trial(13, temperature=0.1)], {"lr": 0.7, "weight": 0.3}, ALL),
        ([trial(0), trial(1, "pruned")], {"lr": 1.0}, {"history", "slices", "rungs"}),
        ([trial(0, "failed")], {}, set()),
        ([], {}, set()),
        ([flat(n) for n in range(8)], {}, {"history", "slices"}),
        (
            [replace(one, hours=0.1 * one.number, front=one.number < 2) for one in MIXED],
            {},
            (ALL - {"importances"}) | {"pareto_front"},
        ),
        # Two parameters that are one: no area, no contour.
        ([trial(n, weight=10.0 ** -(1 + n % 4)) for n in range(8)], {"lr": 0.5, "weight": 0.5}, ALL - {"contour"}),
    ],
    ids=[
        "mixed",
        "no importances",
        "failed and conditional",
        "two",
        "failed",
        "none",
        "alike",
        "two objectives",
        "on a line",
    ],
)
def test_what_can_be_drawn_is_drawn_and_no_more(
    trials: list[TrialPoint], importances: dict[str, float], expected: set[str], tmp_path: Path
) -> None:
    found = search_figures(trials, {"lr"}, importances)
    assert set(found) == expected
    for name, figure in found.items():
        assert Path(save_png(figure, tmp_path / f"{name}.png", 30)).stat().st_size > 1000


def test_the_history_shows_the_best_so_far() -> None:
    axes = search_figures(MIXED, set(), {})["history"].axes[0]
    (line,) = (line for line in axes.lines if line.get_label() == "best so far")
    complete = [one for one in MIXED if one.state == "complete"]
    assert np.asarray(line.get_ydata()).tolist() == [
        max(t.score for t in complete[: n + 1]) for n in range(len(complete))
    ]
