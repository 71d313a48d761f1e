"""Averages of metrics: sums and counts, reduced over workers once and divided once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stray.training.worker import Worker


class Averages:
    """Sums and counts by name; the sums stay on the device until they are reduced."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def add(self, sums: Mapping[str, Tensor], count: float) -> None:
        """Add this rank's sums over `count` of its items."""
        for name, value in sums.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0.0) + count

    def state_dict(self, worker: Worker) -> dict[str, Any]:
        """Return the sums and counts of every rank by themselves, by one collective: their total, added to later, would
        be rounded otherwise. Every rank must call it, and must have added the same names.
        """
        names = sorted(self._sums)
        of_rank_W2K = torch.zeros(worker.world_size, 2, len(names), dtype=torch.float64, device=worker.device)
        for k, name in enumerate(names):
            of_rank_W2K[worker.rank, 0, k] = self._sums[name]
            of_rank_W2K[worker.rank, 1, k] = self._counts[name]
        return {"names": names, "of_rank": worker.all_reduce(of_rank_W2K).cpu()}

    def load(self, state: Mapping[str, Any], worker: Worker) -> None:
        """Go back to where `state` was taken; on another number of workers the first takes what all had."""
        of_rank_W2K = state["of_rank"].to(worker.device)
        if len(of_rank_W2K) != worker.world_size:
            total_2K = of_rank_W2K.sum(dim=0)
            of_rank_W2K = torch.zeros(worker.world_size, *total_2K.shape).to(total_2K)
            of_rank_W2K[0] = total_2K
        sums_K, counts_K = of_rank_W2K[worker.rank]
        self._sums = dict(zip(state["names"], sums_K, strict=True))
        self._counts = dict(zip(state["names"], counts_K.tolist(), strict=True))

    def reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the means over all workers' items, by one collective. Every rank must have added the same names."""
        names = sorted(self._sums)
        if not names:
            return {}
        sums = torch.stack([self._sums[name] for name in names])
        counts = torch.tensor([self._counts[name] for name in names], dtype=torch.float64, device=sums.device)
        total = all_reduce(torch.cat([sums, counts]))
        means = total[: len(names)] / total[len(names) :]
        return dict(zip(names, means.tolist(), strict=True))
