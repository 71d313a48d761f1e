"""Protocol between a stage and the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stray.data.batches import BatchPlan
from stray.noise import Noise
from stray.training.averages import Averages


@dataclass(frozen=True)
class StepOutput:
    """Result of one step on one rank: the loss and the logged terms."""

    loss: Tensor
    """This rank's part of the global loss: the parts of all ranks add up to it."""
    sums: Mapping[str, Tensor]
    """Logged terms, summed over this rank's items."""
    count: float
    """This rank's items."""
    finite: Mapping[str, Tensor] = field(default_factory=dict)
    """Finiteness of per-spot terms, by name and in the order of computation: bool (n,), for each of this
    rank's spots. Read only if the loss or a gradient is not finite; until then on the device.
    """


class Task(Protocol):
    """One stage: a module to train, the batches it trains on, and the step."""

    @property
    def module(self) -> torch.nn.Module:
        """Module that is trained."""
        ...

    plan: BatchPlan
    """The batches that it trains on."""
    epochs: int
    """Number of epochs."""

    def gather(self, positions: np.ndarray, noise: Noise) -> Any:
        """Gather this rank's batch as tensors on the host: the training spots at `positions`. It runs beside the step
        before it.
        """
        ...

    def step(self, batch: Any, noise: Noise) -> StepOutput:
        """Run forward and loss of one batch. `noise` knows the epoch, the step, the global batch and this rank's
        rows.
        """
        ...

    def after_step(self) -> None:
        """Clamp parameters after the optimiser's step."""
        ...

    def validate(self, epoch: int) -> Averages:
        """Return validation metrics over this rank's part of the validation spots; none where there are no such
        spots.
        """
        ...
