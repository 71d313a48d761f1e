"""Stages on a group of Ray Train workers. What can share a group does: starting one takes longer than many a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from stray import storage
from stray.config import RunConfig
from stray.errors import CheckpointWriteError, InputError, NotFiniteError
from stray.on_ray.checkpoints import tidy
from stray.on_ray.data import Placed, PlacedData
from stray.on_ray.events import EventTracker, Source
from stray.on_ray.failures import full_storage, input_error
from stray.on_ray.resources import WorkerPlan
from stray.on_ray.waiting import Need, patiently, running
from stray.on_ray.worker import RayWorker
from stray.stages.results import digest
from stray.stages.run import run_stage
from stray.stages.spec import Stage
from stray.training.process import ONE_ARENA


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One stage, and the runs that it reports to."""

    stage: Stage
    targets: tuple[str, ...]
    """Keys of the MLflow runs that its metrics go to."""
    title: str
    """Title in the progress display."""
    epochs: int
    """0 where nothing is trained."""


def fit(
    assignments: Sequence[Assignment],
    placed: Placed,
    *,
    run: RunConfig,
    layout: WorkerPlan,
    root: str,
    events: Any,
    callbacks: Sequence[Any] = (),
) -> None:
    """Run the stages in their order on one worker group; a group that loses a worker goes on from its last whole
    checkpoint.

    Checkpoints lie below `root`. Raises InputError when a worker found its input at fault, whatever `run.max_failures`
    (it would be at fault again): NotFiniteError (a loss or gradient) and CheckpointWriteError (a checkpoint that cannot
    be written) among them. Raises Ray's TrainingFailedError when a worker failed otherwise more often than that.
    """
    # The same stages get the same run, and with it the checkpoint that an earlier driver left.
    # Named by the last stage: a restarted driver leaves out finished stages, and must find the checkpoints.
    name = "group-" + digest(assignments[-1].stage.key)
    folder = storage.absolute(storage.join(root, "checkpoints"))
    tidy(storage.join(folder, name))
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "assignments": tuple(assignments),
            "placed": placed,
            "events": events,
            "group": name,
            "run": run,
        },
        scaling_config=ScalingConfig(
            num_workers=layout.workers, use_gpu=layout.use_gpu, resources_per_worker=layout.resources_per_worker
        ),
        torch_config=TorchConfig(backend="nccl" if layout.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=run.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
            worker_runtime_env={"env_vars": ONE_ARENA},
        ),
    )
    try:
        workers = f"{layout.workers} worker" + ("s" if layout.workers > 1 else "")
        result = patiently(trainer.fit, Need(workers, layout.resources_per_worker, layout.workers))
    except Exception as error:
        raise input_error(error) or full_storage(error, folder) or error from None
    if isinstance(result.return_value, NotFiniteError):
        raise result.return_value.at(result.checkpoint.path) if result.checkpoint else result.return_value
    if isinstance(result.return_value, InputError):
        raise result.return_value


def _work(config: dict[str, Any]) -> InputError | None:
    """Run the assignments on one worker."""
    with running():
        return _run_stages(config)


def _run_stages(config: dict[str, Any]) -> InputError | None:
    """Run the stages; a fault of the input is returned, since Ray Train tries again what is raised.

    Where one worker of several may have found it alone, the others wait for it in an exchange: it is raised to end the
    group, whose successor returns it.
    """
    fault: Any = ray.get(config["events"].fault.remote(config["group"]))
    if fault is not None:
        return fault
    data = PlacedData(config["placed"])
    for assignment in config["assignments"]:
        source = Source(assignment.targets, assignment.title, assignment.epochs)
        tracker = EventTracker(config["events"], source)
        worker = RayWorker(
            assignment.stage.key,
            lambda *at, t=tracker: t.note(f"resumed after {_place(*at)}"),
            partial(tracker.flush, wait=True),
        )
        try:
            run_stage(assignment.stage, data, worker, tracker, config["run"])
        except (NotFiniteError, CheckpointWriteError) as error:  # all workers raise it together
            return error
        except InputError as error:
            if worker.world_size == 1:
                return error
            ray.get(config["events"].blame.remote(config["group"], error))
            raise
        if worker.rank == 0:
            tracker.done()
    return None


def _place(epoch: int, step: int) -> str:
    return f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
