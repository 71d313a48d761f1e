"""Separation of held-out spots' gene codes, by batch and by class, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stray.collective import gather_rows, rank, rank_rows
from stray.metrics.separation import group_codes, names, separation
from stray.noise import numpy_generator

MOST_SPOTS = 1000
"""Maximum number of spots: all pairs are compared, and this must take little time beside an epoch."""


class CodeMonitor:
    """A keyed sample of the held-out spots, whose codes are compared after every epoch.

    What is found is a function of the codes alone, the same number on every rank, and decides nothing.
    """

    def __init__(self, held_out: np.ndarray, batch_N: np.ndarray, label_N: np.ndarray, seed: int) -> None:
        """`held_out` are positions among the training patients' spots; `batch_N` names the batch of each of these,
        `label_N` its class, empty where it is not known. A grouping of fewer than two groups is not measured.
        """
        # In the order of the draw: where codes coincide, the first are the nearest, and must not be of one patient.
        self.positions = numpy_generator(seed, "gene", "separation").permutation(held_out)[:MOST_SPOTS]
        coded = {name: group_codes(of_N[self.positions]) for name, of_N in (("batch", batch_N), ("class", label_N))}
        self._groups = {name: group_N for name, group_N in coded.items() if group_N.max(initial=-1) >= 1}

    def measure(self, code: Callable[[np.ndarray], Tensor]) -> tuple[dict[str, Tensor], float]:
        """Return sums and count for `Averages`: the numbers of `separation` from rank 0, nothing from the others.

        `code` gives the codes (n, Z) of spots at some positions. Every rank must call this; each codes its share.
        """
        if not self._groups:
            return {}, 0.0
        local_nZ = code(self.positions[rank_rows(len(self.positions))])
        codes_NZ = gather_rows(local_nZ, len(self.positions))
        zero = torch.zeros((), dtype=torch.float64, device=codes_NZ.device)
        if rank() > 0:
            return dict.fromkeys(names(self._groups), zero), 0.0
        found = separation(codes_NZ.cpu().numpy(), self._groups)
        return {name: zero + value for name, value in found.items()}, 1.0
