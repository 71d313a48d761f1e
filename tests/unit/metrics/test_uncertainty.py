from __future__ import annotations

import numpy as np
import pytest

from stray.metrics.bootstrap import auc_interval, resampled_counts, score_intervals, tissue_blocks
from stray.metrics.paired import holm, paired_difference
from stray.metrics.scores import auc


def test_blocks_are_squares_within_a_section() -> None:
    section = np.array(["a", "a", "a", "b"], dtype=object)
    x, y = np.array([100.0, 1099.0, 1101.0, 100.0]), np.array([50.0, 50.0, 50.0, 50.0])
    blocks = tissue_blocks(section, x, y, 1000.0)
    assert blocks[0] == blocks[1] != blocks[2]
    assert blocks[3] not in blocks[:3]
    assert np.array_equal(tissue_blocks(section, x + 333.3, y - 77.7, 1000.0), blocks)


def test_intervals_hold_the_score_and_correlated_tissue_is_less_sure() -> None:
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(40), 10)
    truth = rng.integers(0, 3, 400)
    known = np.ones(3, dtype=bool)
    alone = np.where(rng.random(400) < 0.7, truth, (truth + 1) % 3)
    together = np.where(np.repeat(rng.random(40) < 0.7, 10), truth, (truth + 1) % 3)
    wide, narrow = (
        score_intervals(truth, guess, block, known, 500, np.random.default_rng(1))["accuracy"]
        for guess in (together, alone)
    )
    assert narrow.low < (alone == truth).mean() < narrow.high
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.n_blocks == 40


def test_the_vectorised_bootstrap_equals_a_plain_one() -> None:
    rng = np.random.default_rng(3)
    block, truth, guess = rng.integers(0, 8, 200), rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    found = score_intervals(truth, guess, block, np.ones(2, dtype=bool), 50, np.random.default_rng(7))["accuracy"]
    accuracies = []
    for counts in resampled_counts(8, 50, np.random.default_rng(7)):
        drawn = np.concatenate([np.flatnonzero(block == one) for one in np.repeat(np.arange(8), counts)])
        accuracies.append((truth[drawn] == guess[drawn]).mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(accuracies, [2.5, 97.5])))


def test_the_weighted_auc_equals_that_of_repeated_spots() -> None:
    rng = np.random.default_rng(4)
    block, positive = rng.integers(0, 6, 120), rng.random(120) < 0.4
    scores = (rng.normal(size=120) + positive).round(1)
    found = auc_interval(positive, scores, block, 40, np.random.default_rng(9))
    areas = []
    for counts in resampled_counts(6, 40, np.random.default_rng(9)):
        drawn = np.concatenate([np.flatnonzero(block == one) for one in np.repeat(np.arange(6), counts)])
        areas.append(auc(positive[drawn], scores[drawn]))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(areas, [2.5, 97.5])))


def test_too_little_tissue_gives_no_interval() -> None:
    truth = np.array([0, 1, 0, 1])
    rng = np.random.default_rng(0)
    assert score_intervals(truth, truth, np.arange(4), np.ones(2, dtype=bool), 100, rng) == {}
    assert auc_interval(truth == 1, truth * 1.0, np.arange(4), 100, rng) is None


def test_a_difference_in_every_fold_gives_the_smallest_p_there_is() -> None:
    baseline = {(fold, 0): 0.4 for fold in "ABCDEF"}
    method = {pair: value + 0.1 + 0.01 * index for index, (pair, value) in enumerate(baseline.items())}
    found = paired_difference(method, baseline)
    assert found is not None
    assert found.p == pytest.approx(2 / 2**6)
    assert found.mean == pytest.approx(0.125)
    assert (found.n_pairs, found.n_folds) == (6, 6)


def test_more_seeds_do_not_make_more_patients() -> None:
    method = {(fold, seed): 0.5 for fold in "ABC" for seed in range(10)}
    baseline = dict.fromkeys(method, 0.4)
    found = paired_difference(method, baseline)
    assert found is not None
    assert found.n_pairs == 30
    assert found.p == pytest.approx(2 / 2**3)


def test_two_folds_have_no_p_and_no_common_pair_no_difference() -> None:
    found = paired_difference({("A", 0): 0.5, ("B", 0): 0.7}, {("A", 0): 0.4, ("B", 0): 0.4, ("C", 0): 0.1})
    assert found is not None
    assert found.n_pairs == 2
    assert np.isnan(found.p)
    assert paired_difference({("A", 0): 0.5}, {("B", 0): 0.5}) is None


def test_many_folds_are_drawn_and_agree_with_chance() -> None:
    rng = np.random.default_rng(0)
    baseline = {(f"P{index}", 0): float(value) for index, value in enumerate(rng.random(20))}
    even = {pair: value + 0.1 * (-1) ** index for index, (pair, value) in enumerate(baseline.items())}
    better = {pair: value + 0.1 for pair, value in baseline.items()}
    for method, low, high in ((even, 0.9, 1.0), (better, 0.0, 1e-3)):
        found = paired_difference(method, baseline)
        assert found is not None
        assert low <= found.p <= high


def test_p_values_are_corrected_for_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    found = holm([0.5, float("nan"), 0.9])
    assert found[0] == 1.0
    assert np.isnan(found[1])
    assert found[2] == 1.0
