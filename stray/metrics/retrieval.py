"""Cross-modal retrieval: the rank of a spot's gene code among those nearest to its picture, and the reverse.

Shapes: n queries, N candidates, D dimensions of a code. A rank of 1 is the best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AT = (1, 10)
"""Values of K for the recall at K."""
TIE = 1e-6
"""Similarities that differ by less count as equal: float32 codes of length one are no more precise. Without it,
collapsed codes would be ranked by rounding.
"""
_AT_ONCE = 2**24
"""Number of similarities held in memory at a time."""


def ahead(
    query_nD: NDArray[np.floating],
    candidate_ND: NDArray[np.floating],
    own_n: NDArray[np.int64],
    group_N: NDArray | None = None,
) -> NDArray[np.int64]:
    """Count the candidates that are more similar to each query than its partner, and those that are as similar.

    Args:
        query_nD: Codes of the queries; similarity is the inner product.
        candidate_ND: Codes of the candidates.
        own_n: Position of each query's partner among the candidates.
        group_N: Group of each candidate; a query is compared with its partner's group only. None: with all.

    Returns:
        Counts (n, 2): more similar, and as similar, the partner included.
    """
    found_n2 = np.empty((len(query_nD), 2), dtype=np.int64)
    size = max(1, _AT_ONCE // max(1, len(candidate_ND)))
    for start in range(0, len(query_nD), size):
        rows = slice(start, start + size)
        own_k = own_n[rows]
        gain_kN = query_nD[rows] @ candidate_ND.T
        gain_kN -= gain_kN[np.arange(len(own_k)), own_k][:, None]
        if group_N is not None:
            gain_kN[group_N[own_k][:, None] != group_N] = -np.inf
        better_k = (gain_kN > TIE).sum(axis=1)
        found_n2[rows] = np.stack([better_k, (gain_kN >= -TIE).sum(axis=1) - better_k], axis=1)
    return found_n2


def recall(ahead_n2: NDArray[np.int64], k: int) -> float:
    """Return the mean probability that the partner is among the first `k`, with ties in random order."""
    better_n, equal_n = ahead_n2.T
    return float(np.clip((k - better_n) / equal_n, 0.0, 1.0).mean())


def median_rank(ahead_n2: NDArray[np.int64]) -> float:
    """Return the median over queries of the partner's rank; a tied rank is the middle of its ties."""
    better_n, equal_n = ahead_n2.T
    return float(np.median(better_n + (equal_n + 1) / 2))


def retrieval(of_image_N2: NDArray[np.int64], of_gene_N2: NDArray[np.int64], group_N: NDArray) -> dict[str, float]:
    """Return recall and median rank in both directions, beside their chance levels.

    Args:
        of_image_N2: `ahead` of all pictures as queries.
        of_gene_N2: `ahead` of all gene codes as queries.
        group_N: Group of each spot, as given to `ahead`.

    Returns:
        `recall_K_image_to_gene`, `recall_K_gene_to_image` and `recall_K_chance` for the K of `AT`, likewise
        `median_rank_...`. Chance is that of candidates in random order: for the recall the mean over spots of
        min(K, m) / m with m candidates, for the rank the median over spots of a uniform rank from 1 to m.
    """
    _, count_K = np.unique(group_N, return_counts=True)
    found = {}
    for k in AT:
        found[f"recall_{k}_image_to_gene"] = recall(of_image_N2, k)
        found[f"recall_{k}_gene_to_image"] = recall(of_gene_N2, k)
        found[f"recall_{k}_chance"] = float(np.minimum(k, count_K).sum() / count_K.sum())
    found["median_rank_image_to_gene"] = median_rank(of_image_N2)
    found["median_rank_gene_to_image"] = median_rank(of_gene_N2)
    # Each of a group's m spots has every rank with probability 1 / m: together they have every rank once.
    found["median_rank_chance"] = float(np.median(np.concatenate([np.arange(1, m + 1) for m in count_K])))
    return found
