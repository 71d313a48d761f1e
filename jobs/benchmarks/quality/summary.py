"""The results of a comparison of quality become rows: what each implementation reached, and how far apart they are.

Pooled: the confusion matrices of all patients held out added up, a seed at a time, so that the spread is over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.benchmarks.quality.quality import SIDES, Result, Side
from stray.errors import InputError, Problem
from stray.metrics.paired import Difference, paired_difference
from stray.metrics.scores import confusion_matrix, summarise

SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1_fold": "macro-F1"}
"""Scores of the probe that are shown, in words. A patient's balanced accuracy and macro-F1 are over the classes that
the patient has, pooled ones over the classes that any has.
"""


@dataclass(frozen=True)
class Spread:
    """A number of each seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def sd(self) -> float:
        """Standard deviation over seeds; nan with one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")

    @property
    def range(self) -> float:
        """Largest minus smallest."""
        return max(self.values) - min(self.values)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One implementation of one method."""

    method: str
    side: Side
    elbo: Spread
    """Per held-out spot, mean over folds."""
    own_elbo: Spread | None
    """The same as the implementation itself tells it."""
    pooled: dict[str, Spread]
    """By the names of `SCORES`."""
    patients: dict[str, dict[str, Spread]]
    """By patient held out, by the names of `SCORES`."""
    seconds: Spread
    """Seconds of training, mean over folds."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """stray minus scvi-tools, of one method."""

    method: str
    elbo_share: float
    """Difference of the mean ELBO, over the size of scvi-tools'; above 0: stray's is better."""
    elbo_share_range: tuple[float, float]
    """The same of single cells (fold and seed): the smallest and the largest."""
    pooled: dict[str, float]
    """Differences of the means over seeds, by the names of `SCORES`."""
    within: dict[str, bool | None]
    """Whether that is no more than the seeds of either implementation differ, largest minus smallest; None with one
    seed.
    """
    cells: dict[str, Difference]
    """Differences of the cells' scores, paired; the test flips the signs of folds."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A comparison of quality."""

    rows: tuple[Row, ...]
    """Method by method, stray first."""
    gaps: tuple[Gap, ...]
    """One a method."""
    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    results: tuple[Result, ...]
    """Results that the rows are made of."""
    majority: dict[str, float]
    """Pooled scores of always answering the most frequent class of the spots that are scored."""


def summary(results: Sequence[Result]) -> Quality:
    """Return the rows of `results`. Raises InputError when the implementations did not see the same spots and genes, or
    were not run on the same cells.
    """
    methods = list(dict.fromkeys(one.method for one in results))
    by_cell: dict[tuple[str, str, int], dict[str, Result]] = {}
    for one in results:
        by_cell.setdefault((one.method, one.fold, one.seed), {})[one.side] = one
    for place, sides in by_cell.items():
        if len(sides) != len(SIDES) or len({_data(one) for one in sides.values()}) > 1:
            seen = ", ".join(f"{side} {_data(one)}" for side, one in sides.items())
            what = f"the implementations did not see the same genes, spots and labels: {seen}"
            raise InputError(Problem(" ".join(map(str, place)), what, "remove the folder of results and run again"))
    rows = {(method, side): _row(method, side, results) for method in methods for side in SIDES}
    one_method = [one for one in results if (one.method, one.side) == (methods[0], SIDES[0])]
    support = _pooled([one for one in one_method if one.seed == one_method[0].seed]).sum(axis=1)
    return Quality(
        rows=tuple(rows.values()),
        gaps=tuple(_gap(rows[method, SIDES[0]], rows[method, SIDES[1]], by_cell) for method in methods),
        folds=tuple(sorted({one.fold for one in results})),
        seeds=tuple(sorted({one.seed for one in results})),
        results=tuple(results),
        majority=_majority(support),
    )


def _data(one: Result) -> tuple[int, int, int, int]:
    """Return what both implementations must have in common: genes, spots that train, are held out, are scored."""
    return one.n_genes, one.n_trained, one.n_held_out, sum(map(sum, one.confusion))


def _row(method: str, side: Side, results: Sequence[Result]) -> Row:
    own = [one for one in results if (one.method, one.side) == (method, side)]
    seeds = sorted({one.seed for one in own})
    of_seed = [[one for one in own if one.seed == seed] for seed in seeds]
    pooled = [_summary(_pooled(some)) for some in of_seed]
    told = [[one.own_elbo for one in some if one.own_elbo is not None] for some in of_seed]
    return Row(
        method=method,
        side=side,
        elbo=Spread(tuple(float(np.mean([one.elbo for one in some])) for some in of_seed)),
        own_elbo=Spread(tuple(float(np.mean(some)) for some in told)) if all(told) else None,
        pooled={name: Spread(tuple(one[name] for one in pooled)) for name in SCORES},
        patients={
            fold: {
                name: Spread(tuple(one.scores[name] for some in of_seed for one in some if one.fold == fold))
                for name in SCORES
            }
            for fold in sorted({one.fold for one in own})
        },
        seconds=Spread(tuple(float(np.mean([one.seconds for one in some])) for some in of_seed)),
    )


def _gap(ours: Row, theirs: Row, by_cell: dict[tuple[str, str, int], dict[str, Result]]) -> Gap:
    pairs = {
        (fold, seed): (sides[ours.side], sides[theirs.side])
        for (method, fold, seed), sides in by_cell.items()
        if method == ours.method
    }
    shares = [(a.elbo - b.elbo) / abs(b.elbo) for a, b in pairs.values()]
    differences = {name: ours.pooled[name].mean - theirs.pooled[name].mean for name in SCORES}
    cells = {}
    for name in SCORES:
        found = paired_difference(*({cell: pair[i].scores[name] for cell, pair in pairs.items()} for i in (0, 1)))
        assert found is not None
        cells[name] = found
    return Gap(
        method=ours.method,
        elbo_share=(ours.elbo.mean - theirs.elbo.mean) / abs(theirs.elbo.mean),
        elbo_share_range=(min(shares), max(shares)),
        pooled=differences,
        within={
            name: abs(difference) <= max(ours.pooled[name].range, theirs.pooled[name].range)
            if len(ours.elbo.values) > 1
            else None
            for name, difference in differences.items()
        },
        cells=cells,
    )


def _pooled(results: Sequence[Result]) -> NDArray[np.int64]:
    """Return the sum of the confusion matrices of several folds, over all their classes in alphabetical order."""
    classes = sorted({name for one in results for name in one.classes})
    total = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for one in results:
        place = [classes.index(name) for name in one.classes]
        total[np.ix_(place, place)] += np.array(one.confusion, dtype=np.int64)
    return total


def _summary(confusion_KK: NDArray[np.int64]) -> dict[str, float]:
    found = summarise(confusion_KK, np.ones(len(confusion_KK), dtype=bool))
    return {name: float(found[name]) for name in SCORES}


def _majority(support_K: NDArray[np.int64]) -> dict[str, float]:
    truth = np.repeat(np.arange(len(support_K)), support_K)
    return _summary(confusion_matrix(truth, np.full(len(truth), int(support_K.argmax())), len(support_K)))
