"""Reference classifiers without parameters to tune: nearest neighbours and the majority class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier


def knn_predict(
    train_ND: NDArray[np.floating], train_code_N: NDArray[np.integer], test_MD: NDArray[np.floating], k: int
) -> NDArray[np.int64]:
    """Return the class that the nearest training spots vote for. Equal votes go to the class of the nearer voters.

    Args:
        train_ND: Features of the training spots.
        train_code_N: Class codes of the training spots.
        test_MD: Features of the M spots to classify.
        k: Number of voters, nearest in cosine distance; all training spots where there are fewer.

    Returns:
        Class codes (M,).

    Raises:
        ValueError: There is no training spot.
    """
    if len(train_ND) == 0:
        raise ValueError("kNN needs at least one training spot")
    k = min(k, len(train_ND))

    def weights(distance_Mk: NDArray[np.floating]) -> NDArray[np.floating]:
        # A vote weighs 1 plus a bonus so small that k bonuses never make up for one vote: it only breaks ties.
        return 1.0 + (2.0 - distance_Mk) / (4.0 * k)

    voters = KNeighborsClassifier(k, metric="cosine", weights=weights)  # type: ignore[arg-type]
    voters.fit(np.asarray(train_ND, dtype=np.float32), train_code_N)
    return voters.predict(np.asarray(test_MD, dtype=np.float32)).astype(np.int64)


def majority_code(train_code_N: NDArray[np.integer], n_classes: int) -> int:
    """Return the commonest class code of the training spots (the first of equals). Raises ValueError without training
    spots.
    """
    if len(train_code_N) == 0:
        raise ValueError("the majority class needs at least one training spot")
    return int(np.bincount(train_code_N, minlength=n_classes).argmax())
