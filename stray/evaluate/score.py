"""Scores of predictions and their bootstrap intervals, a label source at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stray.config.evaluation import EvalConfig
from stray.evaluate.predict import CLASSIFIERS, Held, Predictions
from stray.metrics.bootstrap import Interval, auc_interval, score_intervals, tissue_blocks
from stray.metrics.labels import Spots
from stray.metrics.scores import Scores, score


@dataclass(frozen=True)
class Scored:
    """Scores of all classifiers on all label sources."""

    scores: dict[tuple[str, str], Scores] = field(default_factory=dict)
    """By (label source, classifier)."""
    intervals: dict[tuple[str, str, str], Interval] = field(default_factory=dict)
    """By (label source, classifier, score or `auc/CLASS`)."""
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By label source: classes that are scored though no training label had them."""


@dataclass(frozen=True)
class _OnSource:
    """Spots that one label source scores."""

    source: str
    mask_T: NDArray[np.bool_]
    truth: NDArray[np.int64]
    """Indices of their labels into the classes."""
    block: NDArray
    """Blocks of tissue that the bootstrap draws."""


def score_all(held: Held, predictions: Predictions, spots: Spots, config: EvalConfig, seed: int) -> Scored:
    """Score every classifier on every label source; `seed` draws the bootstrap, by blocks of tissue."""
    section, x_um, y_um = (np.asarray(array)[held.rows_T] for array in (spots.section, spots.x_um, spots.y_um))
    block_T = tissue_blocks(section, x_um, y_um, config.bootstrap_block_um)
    found = Scored()
    for source, mask_T in held.scored_of.items():
        on = _OnSource(source, mask_T, predictions.codes(held.label_T[mask_T]), block_T[mask_T])
        unknown = ~predictions.known_K & np.isin(np.arange(len(predictions.classes)), on.truth)
        found.missing[source] = tuple(np.array(predictions.classes, dtype=object)[unknown])
        for classifier in CLASSIFIERS:
            _score_classifier(found, on, classifier, predictions, config, seed)
        _auc_intervals(found, on, predictions, config, seed)
    return found


def _score_classifier(
    found: Scored, on: _OnSource, classifier: str, predictions: Predictions, config: EvalConfig, seed: int
) -> None:
    """Add the scores of one classifier on one source to `found`, with intervals unless it is the majority class."""
    code, known_K = predictions.code_T[classifier][on.mask_T], predictions.known_K
    probability = predictions.probability_TK[on.mask_T] if classifier == "probe" else None
    found.scores[on.source, classifier] = score(on.truth, code, predictions.classes, known_K, probability)
    if classifier != "majority":
        rng = np.random.default_rng([seed, len(found.intervals)])
        intervals = score_intervals(on.truth, code, on.block, known_K, config.bootstrap, rng)
        found.intervals.update({(on.source, classifier, name): interval for name, interval in intervals.items()})


def _auc_intervals(found: Scored, on: _OnSource, predictions: Predictions, config: EvalConfig, seed: int) -> None:
    """Add the intervals of the probe's AUC of each class that a training label has to `found`."""
    for name in found.scores[on.source, "probe"].per_class:
        code = predictions.classes.index(name)
        if predictions.known_K[code]:
            rng = np.random.default_rng([seed, len(found.intervals)])
            probability = predictions.probability_TK[on.mask_T, code]
            area = auc_interval(on.truth == code, probability, on.block, config.bootstrap, rng)
            if area is not None:
                found.intervals[on.source, "probe", f"auc/{name}"] = area
