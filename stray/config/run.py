"""Workers, memory, checkpoints and tracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Workers of the cluster."""

    slots: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Trainings at a time, each on workers of its own; auto: as many as there is work and room for."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Workers of one training, which share its batches. A cohort of a few ten thousand spots does not train faster on
    several: more slots serve it better.
    """
    cpus_per_worker: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """CPUs of each worker; auto: an equal share of the cluster's CPUs."""
    gpu: bool | Literal["auto"] = "auto"
    """Whether workers compute on GPUs; auto: when the cluster has any, or an autoscaler may add one."""
    gpus_per_worker: Annotated[float, Field(gt=0, le=1)] = 1.0
    """GPU of each worker; a fraction shares one GPU among several."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Number of times that a stage may lose its workers and continue from its last whole checkpoint."""
    wait_minutes: Annotated[float, Field(gt=0)] | None = 30.0
    """Minutes that work waits for room on the cluster while nothing of it runs, before it is given up with an error;
    null: without end. What is missing and who holds it is said after ten seconds and every minute.
    """
    checkpoint_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between checkpoints; the last epoch always leaves one."""
    checkpoint_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps of a stage between checkpoints besides, within epochs too; null: at the ends of epochs alone. A checkpoint
    is written while the training waits.
    """
    memory_budget_gib: Annotated[float, Field(gt=0)] = 16.0
    """Most memory that the patches may take on a node, in GiB: in Ray's object store, or in the window of a stream."""
    residence: Literal["auto", "decoded", "encoded", "streamed"] = "auto"
    """Residence of the patches on a node: decoded; encoded, as they lie in the files, and decoded for each batch; or
    not at all: `streamed` from the files in every epoch, through a window. auto: the first of these that fits the
    budget.
    """
    decode_threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Threads of each worker that decode patches which are not kept decoded; auto: one a CPU of the worker."""
    batches_ahead: Annotated[int, Field(ge=1)] = 3
    """Batches that are gathered, and decoded where that is needed, ahead of the step."""
    window_spots: Annotated[int, Field(ge=1)] = 32_768
    """Spots of the training set, over all workers, from which a stream draws its batches: the larger, the better mixed,
    and the more memory. With `streamed` it decides which spots form a batch.
    """


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """MLflow."""

    uri: str | None = None
    """Tracking server or store; MLFLOW_TRACKING_URI where it is not given, else `sqlite:///OUTPUT/mlflow.db`."""
    experiment: str | None = None
    """Name of the MLflow experiment; the recipe's name where it is not given."""
