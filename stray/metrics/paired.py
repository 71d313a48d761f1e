"""The difference between two methods that were scored on the same folds with the same seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_FOLDS = 3
"""Fewest folds for which a p-value is given."""
_EXACT_FOLDS = 14
_DRAWS = 20_000


@dataclass(frozen=True)
class Difference:
    """A method's score minus the baseline's, over the (fold, seed) pairs that both have."""

    mean: float
    sd: float
    """Standard deviation of the differences; nan with one pair."""
    n_pairs: int
    n_folds: int
    p: float
    """Two-sided p-value of the sign-flip test; nan with fewer than `MIN_FOLDS` folds."""


def paired_difference(
    method: Mapping[tuple[str, int], float], baseline: Mapping[tuple[str, int], float]
) -> Difference | None:
    """Return the difference of two methods' scores by (fold, seed), with a sign-flip test; None without a common pair.

    The p-value is the probability of a mean difference at least as far from 0 if the sign of each fold's difference
    were random. The seeds of a fold are scored on the same patients, so they flip together: more seeds do not add
    patients. With F folds the smallest possible p-value is 2 / 2^F.
    """
    pairs = sorted(set(method) & set(baseline))
    if not pairs:
        return None
    difference = np.array([method[pair] - baseline[pair] for pair in pairs])
    folds, fold_of = np.unique([fold for fold, _ in pairs], return_inverse=True)
    by_fold = np.bincount(fold_of, weights=difference)
    p = float("nan")
    if len(folds) >= MIN_FOLDS:
        # scipy's permutation_test counts ties by a relative tolerance, which rounding in sums near 0 exceeds.
        if len(folds) <= _EXACT_FOLDS:
            signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(folds))))
            as_far = np.abs(signs @ by_fold) >= np.abs(by_fold.sum()) - 1e-12
            p = float(as_far.mean())
        else:
            signs = np.random.default_rng(0).choice((1.0, -1.0), size=(_DRAWS, len(folds)))
            as_far = np.abs(signs @ by_fold) >= np.abs(by_fold.sum()) - 1e-12
            p = float((as_far.sum() + 1) / (_DRAWS + 1))  # the observed signs are one of the draws
    sd = float(difference.std(ddof=1)) if len(difference) > 1 else float("nan")
    return Difference(float(difference.mean()), sd, len(pairs), len(folds), p)


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979); those that are nan stay and do not count."""
    order = sorted((value, place) for place, value in enumerate(p) if math.isfinite(value))
    corrected, largest = list(p), 0.0
    for rank, (value, place) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - rank)))
        corrected[place] = largest
    return corrected
