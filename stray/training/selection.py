"""Decisions during training: when to stop, which weights to keep, when to lower the learning rate.

Every decision depends on the history of global metrics alone, so all workers and a resumed run decide the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stray.config import OptimConfig

History = Sequence[Mapping[str, float]]
"""Metrics of every epoch so far."""


@dataclass(frozen=True)
class Selection:
    """Decisions by one metric of the history; larger is better."""

    metric: str
    start: int = 0
    """First epoch (counted from 0) that may be the best: earlier epochs have another loss (the KL warm-up)."""
    patience: int | None = None
    """Epochs without a better one after which training stops; None: never."""
    keep_best: bool = False
    """Whether the weights of the best epoch are kept rather than the last's."""

    def best(self, history: History) -> int | None:
        """Return the best epoch so far, the first of equals; None where no epoch counts yet. nan is the worst."""
        scores = {epoch: metrics[self.metric] for epoch, metrics in enumerate(history) if epoch >= self.start}
        scores = {epoch: -math.inf if math.isnan(score) else score for epoch, score in scores.items()}
        return max(scores, key=lambda epoch: (scores[epoch], -epoch)) if scores else None

    def stops(self, history: History) -> bool:
        """Return whether enough epochs have passed since the best."""
        best = self.best(history)
        return self.patience is not None and best is not None and len(history) - 1 - best >= self.patience

    def rate_factor(self, history: History, optim: OptimConfig) -> float:
        """Return the learning-rate multiplier of the next epoch: `plateau_factor` for every plateau so far.

        A plateau is `plateau_patience` epochs without a better metric, counted anew after each (as in torch's
        ReduceLROnPlateau with no threshold).
        """
        if optim.schedule != "plateau":
            return 1.0
        factor, best, waited = 1.0, float("-inf"), 0
        for metrics in history[self.start :]:
            better = metrics[self.metric] > best
            best, waited = (metrics[self.metric], 0) if better else (best, waited + 1)
            if waited > optim.plateau_patience:
                factor, waited = factor * optim.plateau_factor, 0
        return factor
