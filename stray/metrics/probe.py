"""The linear probe: multinomial logistic regression on standardised features, balanced over classes.

Shapes: N spots, D features, K classes. Everything that is fitted (scale, weights, strength) sees the training spots
only.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from stray.metrics.scores import confusion_matrix, summarise

_MAX_ITERATIONS = 1000
_INNER_FOLDS = 5
"""Folds of tissue blocks on which the strength is chosen where there is one training patient."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits = (x - mean) / scale @ weight.T + bias."""

    classes: tuple[str, ...]
    """Names of the K classes that the training labels had."""
    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]
    weight_KD: NDArray[np.float64]
    bias_K: NDArray[np.float64]
    c: float
    """Inverse regularisation strength that was chosen."""
    inner_score: float
    """Balanced accuracy with that strength on training patients (or tissue blocks) held out in turn; nan where there
    are too few."""
    converged: bool
    """Whether the optimiser reached its tolerance within its iterations."""

    def probabilities(self, features_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return class probabilities (N, K)."""
        logits_NK = (
            np.asarray(features_ND, dtype=np.float64) - self.mean_D
        ) / self.scale_D @ self.weight_KD.T + self.bias_K
        logits_NK -= logits_NK.max(axis=1, keepdims=True)
        likelihood_NK = np.exp(logits_NK)
        return likelihood_NK / likelihood_NK.sum(axis=1, keepdims=True)

    def predict(self, features_ND: NDArray[np.floating]) -> NDArray:
        """Return class names (N,), an object array."""
        return np.array(self.classes, dtype=object)[self.probabilities(features_ND).argmax(axis=1)]

    def to_bytes(self) -> bytes:
        """Return the probe as an NPZ archive without pickles."""
        facts = {"classes": self.classes, "c": self.c, "inner_score": self.inner_score, "converged": self.converged}
        buffer = io.BytesIO()
        np.savez(
            buffer,
            facts=np.array(json.dumps(facts)),
            mean_D=self.mean_D,
            scale_D=self.scale_D,
            weight_KD=self.weight_KD,
            bias_K=self.bias_K,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Probe:
        """Return the probe that `to_bytes` wrote. Raises ValueError or KeyError when `content` is something else."""
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            facts = json.loads(str(archive["facts"]))
            arrays = {name: archive[name] for name in ("mean_D", "scale_D", "weight_KD", "bias_K")}
        return cls(
            classes=tuple(facts["classes"]),
            c=facts["c"],
            inner_score=facts["inner_score"],
            converged=facts["converged"],
            **arrays,
        )


def fit(
    features_ND: NDArray[np.floating],
    label_N: NDArray,
    patient_N: NDArray,
    block_N: NDArray[np.integer],
    strengths: Sequence[float],
    seed: int,
) -> Probe:
    """Fit a probe on labelled training spots, its strength chosen among them.

    Each training patient is left out in turn, and the C with the best mean balanced accuracy on those left out wins; of
    equals, the strongest regularisation. With one patient, tissue blocks are left out instead (`block_N`, folds
    stratified by class and drawn by `seed`). Where neither can be (one block, or never two classes left), the middle
    C is taken. Raises ValueError without spots.
    """
    if len(label_N) == 0:
        raise ValueError("the probe needs at least one labelled training spot")
    features = np.asarray(features_ND, dtype=np.float64)
    classes, code_N = np.unique(np.asarray(label_N, dtype=str), return_inverse=True)
    strengths = sorted(strengths)
    chosen, inner_score = strengths[len(strengths) // 2], float("nan")
    splits = _splits(code_N, np.asarray(patient_N, dtype=str), block_N, seed) if len(strengths) > 1 else []
    paths = [path for left_out in splits if (path := _score_path(features, code_N, left_out, strengths, len(classes)))]
    if paths:
        mean_score = np.mean(paths, axis=0)
        best = int(mean_score.argmax())
        chosen, inner_score = strengths[best], float(mean_score[best])
    (model,) = _fit_path(features, code_N, [chosen])
    mean, scale, weight, bias, converged = model
    names = tuple(str(name) for name in classes)
    return Probe(names, mean, scale, weight, bias, float(chosen), inner_score, converged)


def _splits(code_N: NDArray, patient_N: NDArray, block_N: NDArray, seed: int) -> list[NDArray[np.bool_]]:
    """Return masks of the spots left out in turn: patients, or blocks of the only patient."""
    patients = np.unique(patient_N)
    if len(patients) > 1:
        return [patient_N == patient for patient in patients]
    folds = min(_INNER_FOLDS, len(np.unique(block_N)))
    if folds < 2 or len(np.unique(code_N)) < 2:
        return []
    with warnings.catch_warnings():
        # A class with fewer spots than folds cannot be in every fold; it then counts in those that have it.
        warnings.simplefilter("ignore", UserWarning)
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        masks = []
        for _, left_out in splitter.split(code_N, code_N, block_N):
            mask = np.zeros(len(code_N), dtype=bool)
            mask[left_out] = True
            masks.append(mask)
    return masks


def _score_path(
    features: NDArray, code_N: NDArray, left_out: NDArray[np.bool_], strengths: Sequence[float], n_classes: int
) -> list[float]:
    """Return the balanced accuracy on the spots left out for each strength, over classes that both sides have; empty
    where undefined.
    """
    known_K = np.bincount(code_N[~left_out], minlength=n_classes) > 0
    shared = left_out & known_K[code_N]
    if known_K.sum() < 2 or len(np.unique(code_N[shared])) < 2:
        return []
    codes = np.flatnonzero(known_K)
    scores = []
    for mean, scale, weight, bias, _ in _fit_path(features[~left_out], code_N[~left_out], strengths):
        prediction = codes[(((features[shared] - mean) / scale) @ weight.T + bias).argmax(axis=1)]
        confusion = confusion_matrix(code_N[shared], prediction, n_classes)
        scores.append(float(summarise(confusion, known_K)["balanced_accuracy"]))
    return scores


def _fit_path(features: NDArray, code_N: NDArray, strengths: Sequence[float]) -> list[tuple]:
    """Return (mean, scale, weight, bias, converged) for each strength, from strong to weak, each started from the one
    before.

    Rows of `weight` are the classes of `code_N` in order; with one class they are zero. A penalised optimum lies in
    the span of the training rows, so with fewer spots than features the fit runs in that span: the same optimum,
    fewer numbers.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(np.abs(mean), 1.0), scale, 1.0)
    standard = (features - mean) / scale
    n_classes = len(np.unique(code_N))
    if n_classes == 1:
        return [(mean, scale, np.zeros((1, features.shape[1])), np.zeros(1), True)] * len(strengths)
    basis = None
    if len(standard) < standard.shape[1]:
        left, singular, basis = np.linalg.svd(standard, full_matrices=False)
        standard = left * singular
    model = LogisticRegression(class_weight="balanced", max_iter=_MAX_ITERATIONS, tol=1e-4, warm_start=True)
    path = []
    for c in strengths:
        model.set_params(C=c)
        # The products are so small that threads wait for each other five times longer than one of them would work.
        with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported by `converged` instead
            model.fit(standard, code_N)
        converged = int(model.n_iter_.max()) < _MAX_ITERATIONS
        coefficients, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
        weight = coefficients @ basis if basis is not None else coefficients
        if n_classes == 2:  # scikit-learn keeps one row for two classes: the logit of the second against the first
            weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
        path.append((mean, scale, weight.copy(), bias.copy(), converged))
    return path
