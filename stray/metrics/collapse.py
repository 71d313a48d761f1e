"""Measures of collapsed embeddings, which contrastive training can end in: spread and effective rank.

Shapes: N spots, D dimensions of a code. Codes have length one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread(code_ND: NDArray[np.floating]) -> float:
    """Return the mean over dimensions of the codes' standard deviation, times sqrt(D).

    It is 0 where all codes are equal and at most 1, for codes spread evenly over the sphere. Chen and He 2021,
    "Exploring Simple Siamese Representation Learning", figure 2, plot it without the factor sqrt(D).
    """
    codes = np.asarray(code_ND, dtype=np.float64)
    return float(codes.std(axis=0).mean() * np.sqrt(codes.shape[1]))


def effective_rank(code_ND: NDArray[np.floating]) -> float:
    """Return exp(-sum p ln p) over p, the singular values divided by their sum: from 1 to min(N, D), in dimensions.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality". The codes are not centred, as in
    RankMe (Garrido et al. 2023). The rank is at most N: compare numbers of equally many spots only.
    """
    value_D = np.linalg.svd(np.asarray(code_ND, dtype=np.float64), compute_uv=False)
    share_D = value_D[value_D > 0] / max(value_D.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-(share_D * np.log(share_D)).sum()))
