"""Metrics travel as sum and count, are reduced over workers once and divided once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


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

    def reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over all workers' items, by one collective. Every rank must have added the same names."""
        names = sorted(self._sums)
        if not names:
            return {}
        sums = torch.stack([self._sums[name] for name in names])
        counts = torch.tensor([self._counts[name] for name in names], dtype=torch.float64, device=sums.device)
        total = all_reduce(torch.cat([sums, counts]))
        means = total[: len(names)] / total[len(names) :]
        return dict(zip(names, means.tolist(), strict=True))
