"""A slot: a long-lived group of Ray Train workers that takes stage after stage from the queue.

Starting a group takes longer than many a stage. A group that loses a worker is started again by Ray Train, and its
stage goes on from the stage's last checkpoint, there or in another slot.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayActorError
from ray.train import FailureConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from stray import storage
from stray.config import RunConfig
from stray.errors import CheckpointWriteError, NotFiniteError
from stray.on_ray.assignment import LOST, Assignment
from stray.on_ray.data import PlacedData
from stray.on_ray.events import EventTracker, Source
from stray.on_ray.failures import full_storage, input_error
from stray.on_ray.resources import SlotPlan
from stray.on_ray.waiting import running
from stray.on_ray.worker import PausedError, RayWorker, WithdrawnError
from stray.stages.judge import JUDGED
from stray.stages.run import run_stage
from stray.training.process import ONE_ARENA

SLOTS = "slots"
"""Folder of what Ray Train keeps of a slot, below the results; removed with the slot."""
CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints of the stages that run, below the results."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Name and surroundings of a slot, for its workers."""

    name: str
    queue: Any
    events: Any
    run: RunConfig
    root: str
    """Folder of the results."""
    threads: int
    """Threads that each worker computes with."""


def run_slot(slot: Slot, plan: SlotPlan) -> None:
    """Start the workers of a slot and return once they have been told to end.

    Raises Ray's TrainingFailedError when the workers cannot be started, or the controller was lost.
    """
    trainer = TorchTrainer(
        _serve,
        train_loop_config={"slot": slot},
        scaling_config=ScalingConfig(
            num_workers=plan.workers, use_gpu=plan.use_gpu, resources_per_worker=plan.resources_per_worker
        ),
        torch_config=TorchConfig(backend="nccl" if plan.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=slot.name,
            storage_path=storage.join(slot.root, SLOTS),
            # The queue counts the failures of each stage; those of a slot's whole life say nothing.
            failure_config=FailureConfig(max_failures=-1),
            callbacks=[_GiveBack(slot.queue, slot.name)],
            worker_runtime_env={"env_vars": {**ONE_ARENA, "OMP_NUM_THREADS": str(slot.threads)}},
        ),
    )
    trainer.fit()


class _GiveBack(UserCallback):
    """Gives a stage back as soon as a worker of its group is lost, without waiting for a new group."""

    def __init__(self, queue: Any, slot: str) -> None:
        self._queue, self._slot = queue, slot

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        # Workers that are left say that an exchange broke: the one that died is the cause. Ray's text of a failed
        # health check begins with a page of facts about the worker.
        failed = [getattr(error, "health_check_failure", error) for error in worker_exceptions.values()]
        text = next((_line(error) for error in failed if isinstance(error, RayActorError)), "")
        text = text or next(map(_line, failed), "")
        self._queue.lost.remote(self._slot, f"{LOST} ({text})" if text else LOST)


def _serve(config: Mapping[str, Any]) -> None:
    """Run stage after stage on one worker, until the queue has no more for this slot or is gone with its driver."""
    with contextlib.suppress(RayActorError):
        _take_stages(config["slot"])


def _take_stages(slot: Slot) -> None:
    torch.set_num_threads(slot.threads)
    context = ray.train.get_context()
    rank, device = context.get_world_rank(), ray.train.torch.get_device()
    joined = torch.tensor([ray.get(slot.queue.join.remote(slot.name)) if rank == 0 else 0], dtype=torch.int64)
    incarnation = int(_sum(joined.to(device)))
    free_since = time.monotonic()
    for number in itertools.count():
        assignment: Any = ray.get(slot.queue.take.remote(slot.name, incarnation, number))
        if assignment is None:
            return
        with running():
            _run(assignment, slot, free_since)
        free_since = time.monotonic()
        del assignment
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _run(assignment: Assignment, slot: Slot, free_since: float) -> None:
    """Run one stage and tell the queue how it ended.

    Raises where the group cannot go on: the process is not to be trusted, or other workers wait in an exchange.
    """
    stage, key, queue = assignment.stage, assignment.key, slot.queue
    tracker = EventTracker(slot.events, Source(assignment.targets, assignment.title, stage.epochs))
    worker = RayWorker(
        key,
        storage.join(slot.root, CHECKPOINTS, key),
        on_restore=lambda state: _resumed(assignment, slot, tracker, state),
        before_checkpoint=partial(tracker.flush, wait=True),
        on_epoch=lambda metrics: ray.get(queue.epoch_over.remote(key, metrics)),
    )
    if worker.rank == 0:
        tracker.started()
    started = time.monotonic()
    try:
        run_stage(stage, PlacedData(assignment.placed), worker, tracker, slot.run, assignment.gates)
    except WithdrawnError:  # on all workers alike
        if worker.rank == 0:
            worker.clear()
            tracker.done("stopped")
            ray.get(queue.drop.remote(slot.name, key))
    except PausedError:  # on all workers alike
        if worker.rank == 0:
            tracker.flush(wait=True)
            ray.get(queue.pause.remote(slot.name, key))
    except (NotFiniteError, CheckpointWriteError) as error:  # on all workers alike
        if isinstance(error, NotFiniteError) and (place := worker.newest()) is not None:
            error = error.at(place)
        if worker.rank == 0:
            tracker.done("failed")
            ray.get(queue.fail.remote(slot.name, key, error))
    except Exception as error:
        if (fault := input_error(error) or full_storage(error, slot.root)) is not None:
            ray.get(queue.fail.remote(slot.name, key, fault))
            if worker.world_size == 1:
                tracker.done("failed")
                return
        elif worker.world_size == 1:  # of several, another one's death may be the cause
            ray.get(queue.lost.remote(slot.name, f"{type(error).__name__}: {_line(error)}"))
        raise
    else:
        if worker.rank == 0:
            worker.clear()
            tracker.done()
            seconds = time.monotonic() - started
            ray.get(queue.done.remote(slot.name, key, seconds, started - free_since))


def _resumed(assignment: Assignment, slot: Slot, tracker: EventTracker, state: Mapping[str, Any]) -> None:
    """Tell where a stage goes on, and the queue of the judgements before: one that a driver opened anew lacks them."""
    tracker.note(f"resumed after {_place(state['epoch'], state.get('step', 0))}")
    if ray.train.get_context().get_world_rank() != 0:
        return
    for epoch, metrics in enumerate(state["history"], start=1):
        if JUDGED in metrics:
            judged = {f"{assignment.stage.prefix}/{JUDGED}": metrics[JUDGED], "epoch": epoch}
            ray.get(slot.queue.epoch_over.remote(assignment.key, judged))


def _line(error: BaseException) -> str:
    """Return the text of an error as one line of bounded length."""
    return " ".join(str(error).split())[:300]


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor


def _place(epoch: int, step: int) -> str:
    return f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"


def threads_of(plan: SlotPlan) -> int:
    """Return the threads that a worker computes with: its whole CPUs, at least one."""
    return max(1, math.floor(plan.cpus_per_worker + 1e-6))
