"""Evaluation of frozen embeddings on held-out patients by the linear probe, kNN and the majority class.

Shapes: N embedded spots, D features, K classes. Everything fitted sees training patients only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stray.config.evaluation import EvalConfig
from stray.errors import InputError
from stray.evaluate.fit import checked, fit_probe, fitted_on, nothing_trains, probe_balanced_accuracy
from stray.evaluate.predict import CLASSIFIERS, held_spots, nothing_scored, predict
from stray.evaluate.score import score_all
from stray.evaluate.table import FACTS, PROBABILITY, facts_of, table_of
from stray.metrics.bootstrap import Interval
from stray.metrics.labels import Spots, select, training_labels
from stray.metrics.naming import flat_metrics
from stray.metrics.probe import Probe
from stray.metrics.scores import Scores

__all__ = ["CLASSIFIERS", "FACTS", "PROBABILITY", "Evaluation", "evaluate", "fit_probe", "probe_balanced_accuracy"]


@dataclass(frozen=True)
class Evaluation:
    """Scores, table and probe of a fold's embeddings."""

    table: pa.Table
    """A row an embedded spot of the test patients: spot_id, patient, section, x_um, y_um, label, label_source (null
    where it has no label), scored, weak, the predictions `probe`, `knn`, `majority`, and `probability/CLASS` of
    the probe. Its schema's metadata holds `facts` under the key `FACTS`."""
    metrics: dict[str, float]
    """Flat names: `eval/SOURCE/CLASSIFIER/SCORE`, per class `eval/SOURCE/CLASSIFIER/SCORE/CLASS`; only finite
    values."""
    scores: dict[tuple[str, str], Scores]
    """By (label source, classifier)."""
    intervals: dict[tuple[str, str, str], Interval]
    """By (label source, classifier, score or `auc/CLASS`); empty where the tissue has too few blocks."""
    probe: Probe
    """The fitted probe."""
    missing: dict[str, tuple[str, ...]]
    """By label source: classes that are scored though no training label had them."""
    weak: tuple[str, ...]
    """Scored label sources that are not trusted: their scores are not truth and are never pooled with others."""

    @property
    def facts(self) -> dict:
        """Facts that the table alone does not hold, as they stand in its metadata."""
        return json.loads(self.table.schema.metadata[FACTS])

    @property
    def headline(self) -> str:
        """The probe's balanced accuracy on each label source, as one line for the console."""
        parts = []
        for source in dict.fromkeys(source for source, _ in self.scores):
            weak = " (weak labels)" if source in self.weak else ""
            score = self.metrics.get(f"eval/{source}/probe/balanced_accuracy", float("nan"))
            parts.append(f"{score:.3f} on {source}{weak}")
        return "balanced accuracy " + ", ".join(parts)

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write the table of predictions as Parquet to a local path, and return it."""
        pq.write_table(self.table, os.fspath(path), compression="zstd")
        return os.fspath(path)


def evaluate(
    features_ND: NDArray[np.floating],
    rows: NDArray[np.integer],
    spots: Spots,
    *,
    train_patients: Sequence[str],
    test_patients: Sequence[str],
    config: EvalConfig,
    seed: int = 0,
) -> Evaluation:
    """Fit on the training patients and score the test patients, each label source by itself.

    Args:
        features_ND: Embeddings.
        rows: Global row of each embedding, (N,).
        spots: The dataset's spots.
        train_patients: Patients whose labels train.
        test_patients: Patients who are scored.
        config: Label sources, excluded classes, the probe's strengths, and the bootstrap.
        seed: Seed of the bootstrap and, with one training patient, of the inner folds.

    Raises:
        InputError: No label can train, or none can be scored.
        ValueError: A patient is on both sides, or the embeddings do not fit `rows`.
    """
    rows = checked(features_ND, rows)
    if both := sorted(set(train_patients) & set(test_patients)):
        raise ValueError(f"patients {both} are both trained on and tested on")
    trains = select(training_labels(rows, spots, train_patients, config), rows, spots, config)
    held = held_spots(rows, spots, test_patients, config)
    problems = [] if len(trains.index_N) else [nothing_trains(train_patients, config)]
    if not held.scored_of:
        problems.append(nothing_scored(test_patients, config))
    if problems:
        raise InputError(problems)
    fitted = fitted_on(features_ND, trains, config, seed)
    predictions = predict(features_ND, trains, held, fitted, config)
    scored = score_all(held, predictions, spots, config, seed)
    weak = tuple(source for source in held.scored_of if source not in config.label_sources.trusted)
    facts = facts_of(held, scored, fitted, weak, train_patients, test_patients)
    metrics = flat_metrics(scored.scores, scored.intervals, scored.missing, weak)
    metrics |= {"eval/probe_c": fitted.c, "eval/n_train": float(len(trains.index_N))}
    if np.isfinite(fitted.inner_score):
        metrics["eval/probe_inner_balanced_accuracy"] = fitted.inner_score
    return Evaluation(
        table=table_of(held, predictions, spots, weak, facts),
        metrics=metrics,
        scores=scored.scores,
        intervals=scored.intervals,
        probe=fitted,
        missing=scored.missing,
        weak=weak,
    )
