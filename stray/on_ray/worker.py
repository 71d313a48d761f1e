"""`train.worker.Worker` over Ray Train."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint
from torch import Tensor

from stray import collective

STATE = "state.pt"


class RayWorker:
    """One worker of a Ray Train group, for one stage of the run: checkpoints carry the stage that they belong to."""

    def __init__(
        self,
        stage: str,
        on_restore: Callable[[int, int], None] | None = None,
        before_checkpoint: Callable[[], None] | None = None,
    ) -> None:
        """`on_restore` is told after how many epochs, and steps of the next one, the stage goes on. Whoever goes on
        from a checkpoint says nothing again of what was before it: `before_checkpoint` is called to send it away.
        """
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._stage, self._on_restore, self._before_checkpoint = stage, on_restore, before_checkpoint

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return collective.all_sum(tensor.detach().to(self.device))

    def report(self, metrics: Mapping[str, float], state: Mapping[str, Any] | None) -> str | None:
        if state is None:
            return None  # each report costs a round with the controller; the curves travel through the tracker
        if self._before_checkpoint is not None:
            self._before_checkpoint()
        with tempfile.TemporaryDirectory(prefix="stray-checkpoint-") as folder:
            checkpoint = None
            if self.rank == 0:
                torch.save({"stage": self._stage, "state": dict(state)}, Path(folder) / STATE)
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report(dict(metrics), checkpoint=checkpoint)
        return None  # the controller names it, and knows when it is whole

    def restore(self) -> dict[str, Any] | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / STATE, map_location=self.device, weights_only=True)
        if saved["stage"] != self._stage:
            return None
        if self._on_restore is not None:
            self._on_restore(saved["state"]["epoch"], saved["state"].get("step", 0))
        return saved["state"]
