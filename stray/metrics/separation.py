"""Separation of groups of spots among codes: batches, which a batch-agnostic encoder should mix, and tissue classes,
which it should keep apart.

Shapes: N spots, D dimensions of a code, K groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 15
"""Nearest neighbours that are looked at: scanpy's default for its neighbour graph."""
MEASURES = ("silhouette", "knn_purity")
"""Measures of each grouping."""


def group_codes(name_N: NDArray) -> NDArray[np.int64]:
    """Return the number of each spot's group (N,), -1 where its name is empty or its group has no other spot, since
    distances within a group need two.
    """
    names, code_N, count_K = np.unique(np.asarray(name_N, dtype=str), return_inverse=True, return_counts=True)
    kept_K = (names != "") & (count_K > 1)
    return np.where(kept_K, np.cumsum(kept_K) - 1, -1)[code_N]


def names(groupings: Iterable[str]) -> list[str]:
    """Return the names under which `separation` gives its numbers."""
    return [f"{grouping}_{measure}" for grouping in groupings for measure in MEASURES]


def separation(codes_ND: NDArray[np.floating], groupings: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
    """Return for each grouping (`group_codes` of the same spots, of two groups or more) the separation in Euclidean
    distance, larger where groups lie further apart: low is good for batches, high is good for classes. Spots of group
    -1 are left out of its numbers.

    - `NAME_silhouette`: the mean silhouette width (Rousseeuw 1987), from -1 to 1: (b - a) / max(a, b), with a the mean
      distance to the spots of the own group and b that to those of the nearest other group; about 0 where groups
      coincide. It is what scIB's ASW scores are made of (Luecken et al. 2022), before they rescale it, and for batches
      over all spots rather than within a class: few spots of a cohort have one.
    - `NAME_knn_purity`: the share of a spot's nearest neighbours that are of its own group, rescaled so that 0 is what
      random neighbours would give and 1 is none but its own. At most `NEIGHBOURS` are looked at, and no more than the
      group has other spots. It asks what the silhouette, which takes groups to be round and of one piece, can miss
      (Rautenstrauch and Ohler 2025): batches that mix in one cluster and not in another, a class of two clusters.

    The nearest of many spots are nearer than those of few: purities are compared at one number of spots. Patients whose
    tissue differs are separate by biology too: the numbers of batches need not come down to 0.
    """
    distance_NN = _distances(codes_ND)
    found = {}
    for grouping, group_N in groupings.items():
        kept = np.flatnonzero(group_N >= 0)
        own_NN = distance_NN if len(kept) == len(group_N) else distance_NN[np.ix_(kept, kept)]
        pair = _silhouette(own_NN, group_N[kept]), _purity(own_NN, group_N[kept])
        found |= dict(zip(names([grouping]), pair, strict=True))
    return found


def _distances(codes_ND: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Euclidean distances (N, N); infinite on the diagonal, as no spot is its own neighbour."""
    codes = np.asarray(codes_ND, dtype=np.float64)
    codes = codes - codes.mean(axis=0)  # differences of large squares lose digits
    squares_N = np.einsum("nd,nd->n", codes, codes)
    distance_NN = codes @ codes.T
    distance_NN *= -2.0
    distance_NN += squares_N
    distance_NN += squares_N[:, None]
    np.maximum(distance_NN, 0.0, out=distance_NN)
    np.sqrt(distance_NN, out=distance_NN)
    np.fill_diagonal(distance_NN, np.inf)
    return distance_NN


def _silhouette(distance_NN: NDArray[np.float64], group_N: NDArray[np.int64]) -> float:
    # scikit-learn's silhouette_score gives the same, but raises where a code is not finite.
    rows, count_K = np.arange(len(group_N)), np.bincount(group_N)
    finite_NN = distance_NN.copy()
    np.fill_diagonal(finite_NN, 0.0)
    sums_NK = finite_NN @ np.eye(len(count_K))[group_N]
    own_N = sums_NK[rows, group_N] / (count_K[group_N] - 1)
    means_NK = sums_NK / count_K
    means_NK[rows, group_N] = np.inf
    other_N = means_NK.min(axis=1)
    largest_N = np.maximum(own_N, other_N)
    return float(np.divide(other_N - own_N, largest_N, out=np.zeros_like(own_N), where=largest_N > 0).mean())


def _purity(distance_NN: NDArray[np.float64], group_N: NDArray[np.int64]) -> float:
    n, others_N = len(group_N), np.bincount(group_N)[group_N] - 1
    k = min(NEIGHBOURS, n - 1)
    nearest_Nk = np.argpartition(distance_NN, k - 1, axis=1)[:, :k]
    order_Nk = np.argsort(np.take_along_axis(distance_NN, nearest_Nk, axis=1), axis=1, kind="stable")
    nearest_Nk = np.take_along_axis(nearest_Nk, order_Nk, axis=1)
    same_Nk = np.cumsum(group_N[nearest_Nk] == group_N[:, None], axis=1)
    looked_N = np.minimum(k, others_N)
    share = (same_Nk[np.arange(n), looked_N - 1] / looked_N).mean()
    chance = (others_N / (n - 1)).mean()
    return float((share - chance) / (1.0 - chance))
