"""Fit of the linear probe on training patients, and its score on inner validation patients.

Shapes: N embedded spots, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from stray.config.evaluation import EvalConfig
from stray.errors import InputError, Problem
from stray.metrics import probe as linear
from stray.metrics.labels import Labelled, Spots, select, training_labels
from stray.metrics.probe import Probe
from stray.metrics.scores import confusion_matrix, summarise


def fit_probe(
    features_ND: NDArray[np.floating],
    rows: NDArray[np.integer],
    spots: Spots,
    patients: Iterable[str],
    config: EvalConfig,
    seed: int = 0,
) -> Probe:
    """Fit the linear probe on the labels of some patients.

    Args:
        features_ND: Embeddings.
        rows: Global row of each embedding, (N,).
        spots: The dataset's spots.
        patients: Patients whose labels train.
        config: Label sources, excluded classes, and the strengths to choose from.
        seed: Seed of the inner folds where there is one patient.

    Raises:
        InputError: None of the patients has a label that may train.
        ValueError: The embeddings do not fit `rows`.
    """
    rows = checked(features_ND, rows)
    patients = tuple(patients)
    trains = select(training_labels(rows, spots, patients, config), rows, spots, config)
    if len(trains.index_N) == 0:
        raise InputError(nothing_trains(patients, config))
    return fitted_on(features_ND, trains, config, seed)


def probe_balanced_accuracy(
    features_ND: NDArray[np.floating],
    rows: NDArray[np.integer],
    spots: Spots,
    train_patients: Iterable[str],
    validation_patients: Iterable[str],
    config: EvalConfig,
    seed: int = 0,
) -> float:
    """Return the probe's balanced accuracy on inner validation patients, averaged over them.

    Searches maximise it. Labels are selected as for training (trusted ones where the patient has any). Classes that the
    training patients lack are left out, since no choice of hyperparameters could find them.

    Returns:
        A number from 0 to 1; nan where no validation patient has a usable label.
    """
    rows = checked(features_ND, rows)
    fitted = fit_probe(features_ND, rows, spots, train_patients, config, seed)
    code_of = {name: code for code, name in enumerate(fitted.classes)}
    known_K = np.ones(len(fitted.classes), dtype=bool)
    scores = []
    for patient in sorted(set(validation_patients)):
        held = select(training_labels(rows, spots, [patient], config), rows, spots, config)
        known_N = np.isin(held.label_N.astype(str), fitted.classes)
        if not known_N.any():
            continue
        truth = np.array([code_of[name] for name in held.label_N[known_N]])
        prediction = fitted.probabilities(features_ND[held.index_N[known_N]]).argmax(axis=1)
        scores.append(float(summarise(confusion_matrix(truth, prediction, len(known_K)), known_K)["balanced_accuracy"]))
    return float(np.mean(scores)) if scores else float("nan")


def checked(features_ND: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the rows as integers. Raises ValueError for embeddings that do not fit them or are not finite."""
    if features_ND.ndim != 2 or len(features_ND) != len(rows):
        raise ValueError(f"embeddings of shape {features_ND.shape} do not fit {len(rows)} rows")
    if not np.isfinite(features_ND).all():
        raise ValueError("embeddings hold nan or infinity: the encoder has diverged")
    return np.asarray(rows, dtype=np.int64)


def fitted_on(features_ND: NDArray[np.floating], trains: Labelled, config: EvalConfig, seed: int) -> Probe:
    """Fit the probe on labelled spots."""
    return linear.fit(
        features_ND[trains.index_N], trains.label_N, trains.patient_N, trains.block_N, config.probe_c, seed
    )


def nothing_trains(patients: Iterable[str], config: EvalConfig) -> Problem:
    """Return the problem of training patients without a label that may train."""
    return Problem(
        "eval.label_sources.train",
        f"no spot of the training patients {', '.join(sorted(patients)) or '(none)'} with a picture has a label of "
        f"{', '.join(config.label_sources.train)} whose class is not excluded",
        "name a label source that these patients have (`stray inspect` lists them), or hold out fewer patients",
    )
