"""Nearest neighbours and the majority class: two references that have nothing to tune."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2048
"""Test spots whose similarities to all training spots are held at once."""


def unit_rows(features_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows scaled to length one; a row of zeros stays so."""
    features = np.asarray(features_ND, dtype=np.float32)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)


def knn_predict(
    train_ND: NDArray[np.floating],
    train_code_N: NDArray[np.integer],
    test_MD: NDArray[np.floating],
    k: int,
    n_classes: int,
) -> NDArray[np.int64]:
    """Return class codes (M,) by a vote of the `k` training spots nearest in cosine distance (all of them when there
    are fewer).

    Equal votes go to the class whose voters are more similar. Raises ValueError without training spots.
    """
    if len(train_ND) == 0:
        raise ValueError("kNN needs at least one training spot")
    k = min(k, len(train_ND))
    train, test = unit_rows(train_ND), unit_rows(test_MD)
    predictions = np.empty(len(test), dtype=np.int64)
    for start in range(0, len(test), _CHUNK):
        similarity = test[start : start + _CHUNK] @ train.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        closeness = np.take_along_axis(similarity, nearest, axis=1)
        votes = np.zeros((len(similarity), n_classes))
        rows = np.repeat(np.arange(len(similarity)), k)
        # A vote weighs 1 plus a bonus so small that k bonuses never make up for one vote: it only breaks ties.
        np.add.at(votes, (rows, train_code_N[nearest].ravel()), 1.0 + (closeness.ravel() + 1.0) / (4.0 * k))
        predictions[start : start + _CHUNK] = votes.argmax(axis=1)
    return predictions


def majority_code(train_code_N: NDArray[np.integer], n_classes: int) -> int:
    """Return the commonest class code of the training spots (the first of equals). Raises ValueError without training
    spots.
    """
    if len(train_code_N) == 0:
        raise ValueError("the majority class needs at least one training spot")
    return int(np.bincount(train_code_N, minlength=n_classes).argmax())
