"""How a training's workers share a cluster: never more than it holds, and all of it where nothing else is asked for."""

from __future__ import annotations

import math

import pytest

from stray.config import RunConfig
from stray.errors import InputError
from stray.on_ray.resources import Node, WorkerPlan, layout


def nodes(*cpus_gpus: tuple[float, float]) -> list[Node]:
    return [Node(cpus=cpus, gpus=gpus) for cpus, gpus in cpus_gpus]


@pytest.mark.parametrize(
    ("run", "cluster", "expected"),
    [
        (RunConfig(), nodes((2, 0)), WorkerPlan(1, 2, False)),
        (RunConfig(workers=2), nodes((2, 0)), WorkerPlan(2, 1, False)),
        (RunConfig(workers=4), nodes((2, 0)), WorkerPlan(4, 0.5, False)),
        (RunConfig(workers=3), nodes((2, 0)), WorkerPlan(3, 2 / 3, False)),
        (RunConfig(workers=3), nodes((8, 0)), WorkerPlan(3, 2, False)),
        (RunConfig(), nodes((8, 0), (8, 0)), WorkerPlan(2, 8, False)),
        (RunConfig(), nodes((0, 0), (4, 0)), WorkerPlan(1, 4, False)),
        (RunConfig(workers=3), nodes((8, 0), (2, 0)), WorkerPlan(3, 2, False)),
        (RunConfig(cpus_per_worker=1.5), nodes((4, 0)), WorkerPlan(1, 1.5, False)),
        (RunConfig(), nodes((16, 4), (16, 4)), WorkerPlan(8, 4, True)),
        (RunConfig(workers=1), nodes((16, 4)), WorkerPlan(1, 16, True)),
        (RunConfig(gpu=False), nodes((16, 4)), WorkerPlan(1, 16, False)),
        (RunConfig(), nodes((64, 0), (16, 1)), WorkerPlan(1, 16, True)),
    ],
    ids=[
        "one node, one worker",
        "two workers halve it",
        "more workers than CPUs",
        "thirds of two CPUs",
        "whole CPUs, a remainder idles",
        "a worker a node",
        "a head without CPUs is left out",
        "uneven nodes",
        "as asked",
        "a worker a GPU",
        "one of four GPUs",
        "GPUs not wanted",
        "only the node with the GPU counts",
    ],
)
def test_a_layout(run: RunConfig, cluster: list[Node], expected: WorkerPlan) -> None:
    plan = layout(run, cluster)
    assert plan == expected
    room = [math.floor(node.cpus / plan.cpus_per_worker + 1e-9) for node in cluster if node.gpus or not plan.use_gpu]
    assert sum(room) >= plan.workers


@pytest.mark.parametrize(
    ("run", "cluster", "place"),
    [
        (RunConfig(gpu=True), nodes((8, 0)), "run.gpu"),
        (RunConfig(workers=3), nodes((8, 2)), "run.workers"),
        (RunConfig(workers=2, cpus_per_worker=3), nodes((4, 0)), "run.cpus_per_worker"),
        (RunConfig(workers=2, cpus_per_worker=3), nodes((4, 0), (2, 0)), "run.cpus_per_worker"),
        (RunConfig(), nodes((0, 0)), "run"),
    ],
    ids=["no GPU", "too few GPUs", "too few CPUs", "enough CPUs, but on no single node", "no CPUs"],
)
def test_what_would_wait_for_ever_is_refused(run: RunConfig, cluster: list[Node], place: str) -> None:
    with pytest.raises(InputError) as caught:
        layout(run, cluster)
    (problem,) = caught.value.problems
    assert problem.place == place
    assert problem.remedy


def test_ray_is_asked_for_a_gpu_only_where_the_plan_has_one() -> None:
    assert WorkerPlan(2, 1.5, False).resources_per_worker == {"CPU": 1.5}
    assert WorkerPlan(2, 4, True).resources_per_worker == {"CPU": 4, "GPU": 1.0}
