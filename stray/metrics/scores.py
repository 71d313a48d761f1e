"""Classification scores: functions of the confusion matrix, and the area under the ROC curve.

Shapes: N spots, K classes, R resamples. Class codes are positions in one ordered tuple of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

SUMMARIES = ("accuracy", "balanced_accuracy", "balanced_accuracy_known", "macro_f1_fold", "macro_f1_known")
"""Names of the summary scores, in the order in which they are reported."""


@dataclass(frozen=True)
class ClassScores:
    """One class against the rest."""

    recall: float
    """Share of the class's spots that were found; nan where it has none."""
    precision: float
    """Share of the spots called this class that are; nan where none was called so."""
    f1: float
    """Harmonic mean of both, 2 TP / (2 TP + FP + FN); nan where the class neither occurs nor is predicted."""
    support: int
    """Spots of the class."""
    auc: float
    """Probability that a spot of the class gets a higher score for it than a spot of another class; nan without scores
    (majority, kNN, a class that the training lacked) or without spots of both kinds."""


@dataclass(frozen=True)
class Scores:
    """Scores of a prediction on one set of spots."""

    classes: tuple[str, ...]
    """Names of the K classes, in the order of the matrix."""
    confusion_KK: NDArray[np.int64]
    """Counts: row the truth, column the prediction."""
    summary: dict[str, float]
    """`SUMMARIES` by name."""
    per_class: dict[str, ClassScores]
    """Every class that occurs or is predicted."""


def confusion_matrix(
    truth_N: NDArray[np.integer], prediction_N: NDArray[np.integer], n_classes: int
) -> NDArray[np.int64]:
    """Return counts (K, K): row the truth, column the prediction."""
    cells_N = truth_N.astype(np.int64) * n_classes + prediction_N
    return np.bincount(cells_N, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def summarise(confusion_xKK: NDArray[np.number], known_K: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Return every summary score of one confusion matrix (K, K) or of many at once (..., K, K).

    accuracy: share of spots that are right. balanced_accuracy: mean recall over the classes that the truth has; a class
    that no training label had counts with recall 0. macro_f1_fold: mean F1 over those same classes. The two `_known`
    scores leave out of that mean the classes that the training could not know (`known_K` false). A matrix without spots
    gives nan.
    """
    counts = confusion_xKK.astype(np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    support, called = counts.sum(-1), counts.sum(-2)
    present = support > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = np.where(present, hits / support, 0.0)
        f1 = np.where(present, 2 * hits / (support + called), 0.0)
        fold, known = present.sum(-1), (present & known_K).sum(-1)
        return {
            "accuracy": hits.sum(-1) / support.sum(-1),
            "balanced_accuracy": recall.sum(-1) / fold,
            "balanced_accuracy_known": (recall * known_K).sum(-1) / known,
            "macro_f1_fold": f1.sum(-1) / fold,
            "macro_f1_known": (f1 * known_K).sum(-1) / known,
        }


def auc(positive_N: NDArray[np.bool_], score_N: NDArray[np.floating]) -> float:
    """Return the area under the ROC curve: P(score of a positive > score of a negative), ties counting half; nan
    without both kinds.
    """
    # scikit-learn's roc_auc_score gives the same, ties included, and takes longer.
    n_positive = int(positive_N.sum())
    n_negative = len(positive_N) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    ranks_N = rankdata(score_N)
    return float((ranks_N[positive_N].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def score(
    truth_N: NDArray[np.integer],
    prediction_N: NDArray[np.integer],
    classes: Sequence[str],
    known_K: NDArray[np.bool_],
    probability_NK: NDArray[np.floating] | None = None,
) -> Scores:
    """Score predicted class codes against true ones.

    Args:
        truth_N: Class codes of the labels.
        prediction_N: Class codes of the predictions.
        classes: Names of the K classes.
        known_K: Whether the training labels had the class.
        probability_NK: Class probabilities, for the area under the ROC curve; None: it is nan.

    Raises:
        ValueError: There is no spot to score.
    """
    if len(truth_N) == 0:
        raise ValueError("there is no spot to score")
    confusion_KK = confusion_matrix(truth_N, prediction_N, len(classes))
    summary = {name: float(value) for name, value in summarise(confusion_KK, known_K).items()}
    per_class = {}
    for code, name in enumerate(classes):
        hits, support, called = confusion_KK[code, code], confusion_KK[code].sum(), confusion_KK[:, code].sum()
        if support + called == 0:
            continue
        area = float("nan")
        if probability_NK is not None and known_K[code]:
            area = auc(truth_N == code, probability_NK[:, code])
        per_class[name] = ClassScores(
            recall=float(hits / support) if support else float("nan"),
            precision=float(hits / called) if called else float("nan"),
            f1=float(2 * hits / (support + called)),
            support=int(support),
            auc=area,
        )
    return Scores(tuple(classes), confusion_KK, summary, per_class)
