"""Predictions of the classifiers on test patients.

Shapes: T embedded spots of the test patients, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stray.config.evaluation import EvalConfig
from stray.errors import Problem
from stray.metrics.knn import knn_predict, majority_code
from stray.metrics.labels import Labelled, Spots, usable
from stray.metrics.probe import Probe

CLASSIFIERS = ("probe", "knn", "majority")
"""Classifiers; each has a column of that name in the table of predictions."""


@dataclass(frozen=True)
class Held:
    """Embedded spots of the test patients."""

    index_T: NDArray[np.int64]
    """Positions among the embeddings."""
    rows_T: NDArray[np.int64]
    """Their global rows."""
    label_T: NDArray
    """Class names, None without a label; object."""
    source_T: NDArray
    """Label sources, None without a label; object."""
    scored_of: Mapping[str, NDArray[np.bool_]]
    """Mask (T,) of the spots that each label source scores. Sources without such spots are left out."""

    @property
    def scored_T(self) -> NDArray[np.bool_]:
        """Whether any source scores a spot."""
        return np.logical_or.reduce(list(self.scored_of.values()))


@dataclass(frozen=True)
class Predictions:
    """Classes that each classifier gives to the spots of the test patients."""

    classes: tuple[str, ...]
    """Classes of the training labels and of the scored ones, sorted."""
    known_K: NDArray[np.bool_]
    """Whether a training label has the class."""
    probability_TK: NDArray[np.floating]
    """Class probabilities of the probe."""
    code_T: Mapping[str, NDArray[np.int64]]
    """By classifier, indices into `classes`."""

    def codes(self, labels: NDArray) -> NDArray[np.int64]:
        """Return the indices into `classes` of labels that are all among them."""
        code_of = {name: code for code, name in enumerate(self.classes)}
        return np.array([code_of[name] for name in labels], dtype=np.int64)


def held_spots(rows: NDArray[np.int64], spots: Spots, patients: Iterable[str], config: EvalConfig) -> Held:
    """Return the embedded spots of `patients`; `rows` are those of all embeddings."""
    index_T = np.flatnonzero(np.isin(np.asarray(spots.patient)[rows].astype(str), list(patients)))
    rows_T = rows[index_T]
    source_T = np.asarray(spots.label_source)[rows_T]
    usable_T = usable(rows_T, spots, config)
    scored_of = {source: usable_T & (source_T == source) for source in config.label_sources.score}
    scored_of = {source: mask for source, mask in scored_of.items() if mask.any()}
    return Held(index_T, rows_T, np.asarray(spots.label)[rows_T], source_T, scored_of)


def predict(
    features_ND: NDArray[np.floating], trains: Labelled, held: Held, fitted: Probe, config: EvalConfig
) -> Predictions:
    """Return the predictions of all classifiers, fitted on `trains` alone."""
    classes = tuple(sorted(set(fitted.classes) | {str(name) for name in held.label_T[held.scored_T]}))
    known_K = np.isin(classes, fitted.classes)
    features_TD = features_ND[held.index_T]
    probability_TK = np.zeros((len(features_TD), len(classes)))
    probability_TK[:, known_K] = fitted.probabilities(features_TD)
    made = Predictions(classes, known_K, probability_TK, {})
    train_code = made.codes(trains.label_N)
    codes = {
        "probe": probability_TK.argmax(axis=1),
        "knn": knn_predict(features_ND[trains.index_N], train_code, features_TD, config.knn_k),
        "majority": np.full(len(features_TD), majority_code(train_code, len(classes))),
    }
    return Predictions(classes, known_K, probability_TK, codes)


def nothing_scored(patients: Iterable[str], config: EvalConfig) -> Problem:
    """Return the problem of test patients without a label that is scored."""
    return Problem(
        "eval.label_sources.score",
        f"no spot of the test patients {', '.join(sorted(patients)) or '(none)'} with a picture has a label of "
        f"{', '.join(config.label_sources.score)} whose class is not excluded",
        "score a label source that these patients have (scores on untrusted ones are marked weak), or hold out others",
    )
