"""Rows of a comparison of quality, from results written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from jobs.benchmarks.quality.quality import Result
from jobs.benchmarks.quality.summary import SCORES, summary
from jobs.benchmarks.quality.table import _gaps, _overview, _patients
from stray.errors import InputError
from stray.report.text import markdown

RIGHT = {"accuracy": 1.0, "balanced_accuracy": 1.0, "macro_f1_fold": 1.0}


def result(side: str, fold: str, seed: int, elbo: float, confusion: tuple, classes: tuple = ("a", "b")) -> Result:
    hits = sum(row[i] for i, row in enumerate(confusion))
    scores = {**RIGHT, "accuracy": hits / sum(map(sum, confusion))}
    return Result(
        side=side,  # pyright: ignore[reportArgumentType]
        method="scvi",
        fold=fold,
        seed=seed,
        n_genes=60,
        n_trained=72,
        n_held_out=8,
        elbo=elbo,
        elbo_error=0.1,
        own_elbo=elbo - 1 if side == "scvi-tools" else None,
        classes=classes,
        confusion=confusion,
        scores=scores,
        seconds=10.0,
    )


def results() -> list[Result]:
    """Of two folds and two seeds; the second fold knows a class that the first lacks."""
    found = []
    for seed, right in ((0, 8), (1, 6)):
        for side, elbo in (("stray", -99.0), ("scvi-tools", -100.0)):
            mine = right if side == "stray" else right - 1
            found.append(result(side, "P1", seed, elbo, ((mine, 8 - mine), (0, 2))))
            found.append(result(side, "P2", seed, 2 * elbo, ((0, 0, 1), (0, 4, 0), (0, 0, 5)), ("a", "b", "c")))
    return found


def test_pooled_scores_are_of_the_confusion_matrices_added_up() -> None:
    ours, theirs = summary(results()).rows
    # Seed 0 of stray: 8 + 2 + 4 + 5 of 20; recall of a 8 / 9, of b 6 / 6, of c 5 / 5.
    assert ours.pooled["accuracy"].values == pytest.approx((19 / 20, 17 / 20))
    assert ours.pooled["balanced_accuracy"].values[0] == pytest.approx((8 / 9 + 1 + 1) / 3)
    assert theirs.pooled["accuracy"].values == pytest.approx((18 / 20, 16 / 20))
    assert ours.pooled["accuracy"].mean == pytest.approx(18 / 20)
    assert ours.pooled["accuracy"].sd == pytest.approx(0.1 / math.sqrt(2))
    assert ours.patients["P1"]["accuracy"].values == pytest.approx((1.0, 0.8))


def test_the_gap_is_stray_minus_scvi_tools() -> None:
    (gap,) = summary(results()).gaps
    assert gap.elbo_share == pytest.approx(0.01)
    assert gap.elbo_share_range == pytest.approx((0.01, 0.01))
    assert gap.pooled["accuracy"] == pytest.approx(0.05)
    assert gap.within["accuracy"]  # the seeds differ by 0.1
    assert gap.cells["accuracy"].mean == pytest.approx(0.05)  # 0.1 in P1, 0 in P2


def test_a_gap_larger_than_what_seeds_do_is_not_within() -> None:
    far = [
        replace(one, confusion=((1, 7), (0, 2))) if one.side != "stray" and one.fold == "P1" else one
        for one in results()
    ]
    (gap,) = summary(far).gaps
    assert gap.pooled["accuracy"] == pytest.approx(0.3)
    assert not gap.within["accuracy"]


def test_one_seed_has_no_spread_to_be_within() -> None:
    found = summary([one for one in results() if one.seed == 0])
    assert found.gaps[0].within == dict.fromkeys(SCORES)
    assert "| scvi | stray | -148.5 |  | 0.950 |" in markdown(_overview(found))


def test_the_majority_is_of_the_spots_of_one_seed() -> None:
    # a: 8 + 1, b: 2 + 4, c: 5 of 20
    assert summary(results()).majority["accuracy"] == pytest.approx(9 / 20)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda some: [replace(some[0], n_genes=59), *some[1:]], "same genes"),
        (lambda some: [replace(some[0], confusion=((9, 0), (0, 2))), *some[1:]], "same genes"),
        (lambda some: some[1:], "same genes"),
    ],
    ids=["another panel", "other labelled spots", "a missing cell"],
)
def test_implementations_that_saw_other_data_are_not_compared(change, reason) -> None:
    with pytest.raises(InputError, match=reason):
        summary(change(results()))


def test_the_tables_asmarkdown() -> None:
    found = summary(results())
    text = markdown(_overview(found))
    assert "2 patients held out in turn, 2 seeds" in text
    assert "| scvi | stray | -148.5 ± 0.0 [-148.5, -148.5] |  | 0.900 ± 0.071 [0.850, 0.950] |" in text
    assert "| scvi | scvi-tools | -150.0 ± 0.0 [-150.0, -150.0] | -151.0 ± 0.0 [-151.0, -151.0] |" in text
    assert "| scvi | ELBO | +1.00% | +1.00% to +1.00% |  |  |" in markdown(_gaps(found))
    assert "| P1 | scvi | stray | 0.900 ± 0.141 [0.800, 1.000] |" in markdown(_patients(found))
    lines = text.splitlines()[2:]
    assert len({line.count("|") for line in lines}) == 1
