"""`training.worker.Worker` over Ray Train."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor

from stray import collective, storage
from stray.errors import CheckpointWriteError, Problem
from stray.on_ray.assignment import Verdict
from stray.on_ray.checkpoints import STATE, keep_newest, newest, write


class WithdrawnError(Exception):
    """The stage was withdrawn: no run needs its result any more."""


class PausedError(Exception):
    """The stage gives its slot to another one; it goes on from the checkpoint just written."""


class RayWorker:
    """One worker of a Ray Train group, for one stage.

    Checkpoints lie in the stage's own folder, so that any slot can go on from them.
    """

    def __init__(
        self,
        stage: str,
        folder: str,
        *,
        on_restore: Callable[[Mapping[str, Any]], None] | None = None,
        before_checkpoint: Callable[[], None] | None = None,
        on_epoch: Callable[[Mapping[str, float]], Verdict] | None = None,
    ) -> None:
        """Checkpoints of the stage with this key lie in `folder`.

        `on_restore` is given the state from which the stage goes on. What was before a checkpoint is not reported again
        after a restart: `before_checkpoint` is called to send it. `on_epoch` is told each epoch's metrics on rank 0,
        and returns what becomes of the stage; it asks for a pause only at epochs that end with a checkpoint.
        """
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._stage, self._folder = stage, folder
        self._on_restore, self._before_checkpoint, self._on_epoch = on_restore, before_checkpoint, on_epoch
        self._filesystem, self._run = storage.resolve(folder)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return collective.all_sum(tensor.detach().to(self.device))

    def report(self, metrics: Mapping[str, float], state: Mapping[str, Any] | None) -> str | None:
        """See `Worker.report`. Raises WithdrawnError on every rank alike when the stage is not wanted any more, and
        PausedError when it is to wait.
        """
        place, failure, verdict = None, None, "go on"
        if self.rank == 0 and self._on_epoch is not None and "step" not in metrics:
            verdict = self._on_epoch(metrics)
        if state is not None and verdict != "stop":
            if self._before_checkpoint is not None:
                self._before_checkpoint()
            if self.rank == 0:
                try:
                    place = write(self._filesystem, self._run, {"stage": self._stage, "state": dict(state)})
                    keep_newest(self._filesystem, self._run)
                except OSError as error:
                    failure = error
        stops = failure is not None, verdict == "stop", verdict == "pause"
        # All workers stop together: Ray would retry the epochs since the last checkpoint, and fail again.
        ends = self.all_reduce(torch.tensor(list(map(float, stops)))).tolist()
        if ends[0] > 0:
            raise self._not_kept(failure)
        if ends[1] > 0:
            raise WithdrawnError(self._stage)
        if ends[2] > 0:
            raise PausedError(self._stage)
        return place

    def restore(self) -> dict[str, Any] | None:
        if (folder := self.newest()) is None:
            return None
        with self._filesystem.open_input_stream(f"{folder}/{STATE}") as stream:
            saved = torch.load(io.BytesIO(stream.read()), map_location=self.device, weights_only=True)
        if saved["stage"] != self._stage:
            return None
        if self._on_restore is not None:
            self._on_restore(saved["state"])
        return saved["state"]

    def newest(self) -> str | None:
        """Return the folder of the newest whole checkpoint; None where there is none."""
        return newest(self._filesystem, self._run)

    def clear(self) -> None:
        """Delete the stage's checkpoints: its results are whole."""
        storage.delete_folder(self._folder)

    def _not_kept(self, failure: OSError | None) -> CheckpointWriteError:
        kept = self.newest()
        before = f"the previous one is complete ({kept})" if kept else "there is no previous one"
        what = f"the checkpoint could not be written ({failure or 'by rank 0'}); {before}"
        remedy = "make room there, and run the same command again: it continues from the last complete checkpoint"
        return CheckpointWriteError(Problem(self._run, what, remedy))
