"""How slots share a cluster: never more than it holds, and all of it where there is work."""

from __future__ import annotations

import math

import pytest

from stray.config import RunConfig
from stray.errors import InputError
from stray.on_ray.resources import READING_CPUS, Node, SlotPlan, layout


def nodes(*cpus_gpus: tuple[float, float]) -> list[Node]:
    return [Node(cpus=cpus, gpus=gpus) for cpus, gpus in cpus_gpus]


@pytest.mark.parametrize(
    ("run", "width", "cluster", "expected"),
    [
        (RunConfig(), 1, nodes((2, 0)), SlotPlan(1, 1, 2)),
        (RunConfig(), 30, nodes((2, 0)), SlotPlan(2, 1, 1)),
        (RunConfig(), None, nodes((2, 0)), SlotPlan(2, 1, 1)),
        (RunConfig(), 3, nodes((8, 0)), SlotPlan(3, 1, 2)),
        (RunConfig(slots=4), 30, nodes((2, 0)), SlotPlan(4, 1, 0.5)),
        (RunConfig(slots=3), 30, nodes((2, 0)), SlotPlan(3, 1, 2 / 3)),
        (RunConfig(slots=1), 30, nodes((2, 0)), SlotPlan(1, 1, 2)),
        (RunConfig(workers=2), 30, nodes((2, 0)), SlotPlan(1, 2, 1)),
        (RunConfig(workers=2), 2, nodes((8, 0)), SlotPlan(2, 2, 2)),
        (RunConfig(workers=4), 1, nodes((2, 0)), SlotPlan(1, 4, 0.5)),
        (RunConfig(), 2, nodes((8, 0), (8, 0)), SlotPlan(2, 1, 8)),
        (RunConfig(), 1, nodes((0, 0), (4, 0)), SlotPlan(1, 1, 4)),
        (RunConfig(), 3, nodes((8, 0), (2, 0)), SlotPlan(3, 1, 2)),
        (RunConfig(cpus_per_worker=1.5), 30, nodes((4, 0)), SlotPlan(2, 1, 1.5)),
        (RunConfig(), 30, nodes((16, 4), (16, 4)), SlotPlan(8, 1, 4, 1.0)),
        (RunConfig(), 1, nodes((16, 4)), SlotPlan(1, 1, 16, 1.0)),
        (RunConfig(gpus_per_worker=0.25), 30, nodes((16, 1)), SlotPlan(4, 1, 4, 0.25)),
        (RunConfig(gpus_per_worker=0.4), 30, nodes((16, 1)), SlotPlan(2, 1, 8, 0.4)),
        (RunConfig(gpu=False), 30, nodes((4, 4)), SlotPlan(4, 1, 1)),
        (RunConfig(), 30, nodes((64, 0), (16, 1)), SlotPlan(1, 1, 16, 1.0)),
        (RunConfig(), 30, nodes((2, 8)), SlotPlan(8, 1, 0.25, 1.0)),
    ],
    ids=[
        "one training has the node",
        "a slot a CPU",
        "any amount of work",
        "as many slots as there is work for",
        "more slots than CPUs",
        "thirds of two CPUs",
        "one slot has it all",
        "two workers share one training",
        "two trainings of two workers",
        "more workers than CPUs",
        "a slot a node",
        "a head without CPUs is left out",
        "uneven nodes",
        "CPUs as asked",
        "a slot a GPU",
        "one of four GPUs",
        "four slots share a GPU",
        "a GPU holds two such parts",
        "GPUs not wanted",
        "only the node with the GPU counts",
        "more GPUs than CPUs",
    ],
)
def test_a_layout(run: RunConfig, width: int | None, cluster: list[Node], expected: SlotPlan) -> None:
    plan = layout(run, cluster, width)
    assert plan == expected
    room = [math.floor(node.cpus / plan.cpus_per_worker + 1e-9) for node in cluster if node.gpus or not plan.use_gpu]
    assert sum(room) >= plan.slots * plan.workers


@pytest.mark.parametrize(
    ("run", "cluster", "place"),
    [
        (RunConfig(gpu=True), nodes((8, 0)), "run.gpu"),
        (RunConfig(workers=3), nodes((8, 2)), "run.workers"),
        (RunConfig(slots=3), nodes((8, 2)), "run.slots"),
        (RunConfig(workers=2, cpus_per_worker=3), nodes((4, 0)), "run.cpus_per_worker"),
        (RunConfig(workers=2, cpus_per_worker=3), nodes((4, 0), (2, 0)), "run.cpus_per_worker"),
        (RunConfig(slots=2, cpus_per_worker=3), nodes((4, 0)), "run.cpus_per_worker"),
        (RunConfig(), nodes((0, 0)), "run"),
    ],
    ids=[
        "no GPU",
        "too few GPUs",
        "too few GPUs for the slots",
        "too few CPUs",
        "enough CPUs, but on no single node",
        "too few CPUs for the slots",
        "no CPUs",
    ],
)
def test_what_would_wait_for_ever_is_refused(run: RunConfig, cluster: list[Node], place: str) -> None:
    with pytest.raises(InputError) as caught:
        layout(run, cluster)
    (problem,) = caught.value.problems
    assert problem.place == place
    assert problem.remedy


def test_ray_is_asked_for_a_gpu_only_where_the_plan_has_one() -> None:
    assert SlotPlan(1, 2, 1.5).resources_per_worker == {"CPU": 1.425}
    assert SlotPlan(1, 2, 4, 0.5).resources_per_worker == {"CPU": 3.8, "GPU": 0.5}


@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_slots_that_fill_a_node_leave_room_for_what_reads_the_dataset(cpus: int) -> None:
    plan = layout(RunConfig(), nodes((cpus, 0)))
    assert cpus - plan.slots * plan.resources_per_worker["CPU"] >= READING_CPUS


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (SlotPlan(2, 1, 1), "2 slots, 1 CPU each"),
        (SlotPlan(1, 2, 0.5), "1 slot of 2 workers, 0.5 CPUs a worker"),
        (SlotPlan(8, 1, 4, 1.0), "8 slots, 4 CPUs and 1 GPU each"),
    ],
)
def test_a_plan_in_words(plan: SlotPlan, text: str) -> None:
    assert str(plan) == text
