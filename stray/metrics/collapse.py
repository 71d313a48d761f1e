"""Whether codes still use the space that they have: contrast can end with all spots in one point, or on one line.

Shapes: N spots, D dimensions of a code. Codes have length one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread(code_ND: NDArray[np.floating]) -> float:
    """Return the standard deviation of each dimension, the mean over dimensions, times the root of D.

    0 where all codes are one point, 1 where they lie evenly on the sphere; larger never, whatever D is. Chen and He
    2021, "Exploring Simple Siamese Representation Learning", figure 2, watch it as 1 / sqrt(D).
    """
    codes = np.asarray(code_ND, dtype=np.float64)
    return float(codes.std(axis=0).mean() * np.sqrt(codes.shape[1]))


def effective_rank(code_ND: NDArray[np.floating]) -> float:
    """Return exp(-sum p ln p) over p, the singular values divided by their sum: from 1 to min(N, D), in dimensions.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality"; of codes as they are, without
    taking their mean away, it is RankMe (Garrido et al. 2023). Few spots cannot show many dimensions: numbers compare
    at one N.
    """
    value_D = np.linalg.svd(np.asarray(code_ND, dtype=np.float64), compute_uv=False)
    share_D = value_D[value_D > 0] / max(value_D.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-(share_D * np.log(share_D)).sum()))
