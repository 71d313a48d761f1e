"""`train.worker.Worker` over Ray Train."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from torch import Tensor

from stray import collective
from stray.errors import CheckpointWriteError, Problem
from stray.on_ray.checkpoints import STATE, newest, write


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
        place: Any = context.get_storage()
        self._filesystem, self._run = place.storage_filesystem, place.experiment_fs_path

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return collective.all_sum(tensor.detach().to(self.device))

    def report(self, metrics: Mapping[str, float], state: Mapping[str, Any] | None) -> str | None:
        if state is None:
            return None  # each report costs a round trip to the controller; curves go through the tracker
        if self._before_checkpoint is not None:
            self._before_checkpoint()
        checkpoint, failure = None, None
        if self.rank == 0:
            try:
                folder = write(self._filesystem, self._run, {"stage": self._stage, "state": dict(state)})
                checkpoint = Checkpoint(folder, self._filesystem)
            except OSError as error:
                failure = error
        # All workers stop together: Ray would retry the epochs since the last checkpoint, and fail again.
        if self.all_reduce(torch.tensor([float(failure is not None)])) > 0:
            raise self._not_kept(failure)
        ray.train.report(dict(metrics), checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        return None  # the controller knows when the checkpoint is complete

    def restore(self) -> dict[str, Any] | None:
        checkpoint = ray.train.get_checkpoint()
        folder = newest(self._filesystem, self._run) if checkpoint is None else checkpoint.path
        if folder is None:
            return None
        with self._filesystem.open_input_stream(f"{folder}/{STATE}") as stream:
            saved = torch.load(io.BytesIO(stream.read()), map_location=self.device, weights_only=True)
        if saved["stage"] != self._stage:
            return None
        if self._on_restore is not None:
            self._on_restore(saved["state"]["epoch"], saved["state"].get("step", 0))
        return saved["state"]

    def _not_kept(self, failure: OSError | None) -> CheckpointWriteError:
        kept = newest(self._filesystem, self._run)
        before = f"the previous one is complete ({kept})" if kept else "there is no previous one"
        what = f"the checkpoint could not be written ({failure or 'by rank 0'}); {before}"
        remedy = "make room there, and run the same command again: it continues from the last complete checkpoint"
        return CheckpointWriteError(Problem(self._run, what, remedy))
