"""Retrieval between two views of the same spots: does a picture find its own gene code, and a gene code its picture?

Shapes: n queries, N candidates, D dimensions of a code. A rank of 1 is the best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AT = (1, 10)
"""Candidates that a query may look at, most similar first, for its own partner to be among them."""
TIE = 1e-6
"""Similarities that differ by less are equal: codes of length one in float32 tell no more. Without it the partners of
codes that have collapsed into one point would be ranked by rounding.
"""
_AT_ONCE = 2**24
"""Similarities that are held at a time."""


def ahead(
    query_nD: NDArray[np.floating],
    candidate_ND: NDArray[np.floating],
    own_n: NDArray[np.int64],
    group_N: NDArray | None = None,
) -> NDArray[np.int64]:
    """Count for each query, (n, 2), the candidates more similar than its partner `own_n`, and those as similar (itself
    among them).

    Similarity is the inner product, the cosine where codes have length one. With `group_N` a query has the candidates
    of its partner's group alone.
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
    """Return the mean probability that the partner is among the first `k`, equals standing in any order."""
    better_n, equal_n = ahead_n2.T
    return float(np.clip((k - better_n) / equal_n, 0.0, 1.0).mean())


def median_rank(ahead_n2: NDArray[np.int64]) -> float:
    """Return the median over queries of the partner's rank, in the middle of its equals."""
    better_n, equal_n = ahead_n2.T
    return float(np.median(better_n + (equal_n + 1) / 2))


def retrieval(of_image_N2: NDArray[np.int64], of_gene_N2: NDArray[np.int64], group_N: NDArray) -> dict[str, float]:
    """Return both directions and what chance gives, from `ahead` of all spots, whose candidates were those of
    `group_N`.

    `recall_K_image_to_gene` and `recall_K_gene_to_image` for the K of `AT`, `median_rank_...` likewise; `..._chance`
    is that of candidates in random order: min(K, candidates) / candidates, the mean over spots; and the median over
    spots of a rank that is any of 1 to the number of candidates.
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
