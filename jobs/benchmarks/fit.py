"""Stages trained for a measurement, on workers that get no second try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from stray.config import Recipe
from stray.on_ray.data import Placed
from stray.on_ray.events import Event, listen
from stray.on_ray.fit import Assignment, fit
from stray.on_ray.resources import WorkerPlan
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
    hear: Callable[[Event], None] = lambda event: None,
) -> None:
    """Run the stages for a measurement: by workers of `cpus` CPUs in all that get no second try, with checkpoints below
    `root`; `hear` is told what they report, as they go.
    """
    with listen(hear) as events:
        fit(
            [Assignment(stage=stage, targets=(), title=stage.key, epochs=stage.epochs) for stage in stages],
            placed,
            run=replace(recipe.run, max_failures=0),
            layout=WorkerPlan(workers, cpus / workers, use_gpu),
            root=root,
            events=events,
        )
