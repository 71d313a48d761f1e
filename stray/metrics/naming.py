"""Flat names of scores, under which a tracker stores them and `stray compare` reads them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from stray.metrics.bootstrap import Interval
from stray.metrics.scores import Scores

INNER = "eval/inner_balanced_accuracy"
"""Balanced accuracy on inner validation patients; searches maximise it, and methods with `choose` select by it."""

INNER_SD = f"{INNER}_sd"
"""Standard deviation of that score over the trainings of a trial: inner folds and seeds."""


HOURS = "search/device_hours"
"""Device hours of a trial's contrastive trainings."""


def inner_of(held_out: Sequence[str], seed: int) -> str:
    """Return the name of the score of one training of a trial."""
    return f"inner/{safe_name('+'.join(held_out))}/seed_{seed}"


def safe_name(name: str) -> str:
    """Return a class or source as a part of a metric name: MLflow takes letters, digits, and `_-. :`.

    A name that has to change ends in a digest of itself, so that two of them stay distinct.
    """
    safe = re.sub(r"[^\w\-. :]", "_", name).strip(". ")
    return safe if safe == name else f"{safe or '_'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def flat_metrics(
    scores: Mapping[tuple[str, str], Scores],
    intervals: Mapping[tuple[str, str, str], Interval],
    missing: Mapping[str, tuple[str, ...]],
    weak: Sequence[str],
) -> dict[str, float]:
    """Return `eval/SOURCE/CLASSIFIER/SCORE` and, per class, `eval/SOURCE/CLASSIFIER/SCORE/CLASS`; finite values only.

    Intervals stand beside their score as `SCORE_low` and `SCORE_high`.

    Args:
        scores: By (label source, classifier).
        intervals: By (label source, classifier, score or `auc/CLASS`).
        missing: By label source, the scored classes that no training label had.
        weak: Label sources that are not trusted.
    """
    metrics: dict[str, float] = {}
    for (source, classifier), result in scores.items():
        place = f"eval/{safe_name(source)}/{classifier}"
        metrics |= {f"{place}/{name}": value for name, value in result.summary.items()}
        if classifier == "majority":
            metrics[f"eval/{safe_name(source)}/n_spots"] = float(result.confusion_KK.sum())
            metrics[f"eval/{safe_name(source)}/weak"] = float(source in weak)
            metrics[f"eval/{safe_name(source)}/classes_missing_in_training"] = float(len(missing[source]))
            continue
        for name, one in result.per_class.items():
            metrics |= {f"{place}/{key}/{safe_name(name)}": float(value) for key, value in asdict(one).items()}
        areas = [one.auc for one in result.per_class.values() if np.isfinite(one.auc)]
        if areas:
            metrics[f"{place}/auc_macro"] = float(np.mean(areas))
    for (source, classifier, name), interval in intervals.items():
        stem, _, one = name.partition("/")
        tail = f"/{safe_name(one)}" if one else ""
        metrics[f"eval/{safe_name(source)}/{classifier}/{stem}_low{tail}"] = interval.low
        metrics[f"eval/{safe_name(source)}/{classifier}/{stem}_high{tail}"] = interval.high
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
