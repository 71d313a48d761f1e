"""Judgement of an image stage while it trains, for searches that stop trials which fall behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stray.config import EvalConfig
from stray.evaluate import probe_balanced_accuracy

JUDGED = "inner_balanced_accuracy"
"""Name of the score among the stage's metrics."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A sample of M labelled spots: those of training patients fit a linear probe, those of the others are scored.

    It has the arrays of `stray.metrics.labels.Spots`.
    """

    epochs: frozenset[int]
    """Epochs after which the stage is judged."""
    rows: np.ndarray
    """Global rows (M,)."""
    spot_id: np.ndarray
    patient: np.ndarray
    section: np.ndarray
    x_um: np.ndarray
    y_um: np.ndarray
    label: np.ndarray
    label_source: np.ndarray
    train: tuple[str, ...]
    """Patients whose spots fit the probe."""
    held_out: tuple[str, ...]
    """Patients whose spots are scored."""
    config: EvalConfig
    """Label sources, and the strength of the probe."""
    seed: int

    def score(self, features_MD: np.ndarray) -> float:
        """Return the balanced accuracy of the probe on the features of the sample; nan where no spot can be scored, or
        a feature is not finite.
        """
        if not np.isfinite(features_MD).all():
            return float("nan")
        places = np.arange(len(self.rows))
        return probe_balanced_accuracy(features_MD, places, self, self.train, self.held_out, self.config, self.seed)
