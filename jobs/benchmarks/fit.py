"""Training of stages for a measurement, on workers that are not restarted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from stray.config import Recipe
from stray.on_ray.assignment import Assignment
from stray.on_ray.data import Placed
from stray.on_ray.events import Event, listen
from stray.on_ray.pool import fit
from stray.on_ray.resources import SlotPlan
from stray.stages.spec import Stage


def fit_alone(
    stages: Sequence[Stage],
    placed: Placed,
    recipe: Recipe,
    root: str,
    cpus: int,
    *,
    workers: int = 1,
    use_gpu: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> None:
    """Run the stages for a measurement, on workers that are not restarted when they fail.

    Args:
        stages: Stages to run, one after the other.
        placed: Data in the object store.
        recipe: Its `run` settings apply.
        root: Folder of the checkpoints.
        cpus: CPUs of all workers together.
        workers: Number of workers.
        use_gpu: Whether each worker takes a GPU.
        on_event: Called with each event that a worker reports.
    """
    with listen(on_event) as events:
        fit(
            [Assignment(stage=stage, placed=placed, title=stage.key) for stage in stages],
            run=replace(recipe.run, max_failures=0),
            plan=SlotPlan(1, workers, cpus / workers, float(use_gpu)),
            root=root,
            events=events,
        )
