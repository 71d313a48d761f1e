"""The queue that slots take stages from: what workers of one group, lost groups and trials are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from stray.errors import InputError, Problem, RunError
from stray.on_ray.assignment import Assignment
from stray.on_ray.queue import StageQueue


@dataclass(frozen=True)
class Stage:
    """What the queue asks of a stage."""

    key: str
    inputs: tuple[Any, ...] = ()


GENE = Stage("gene")
IMAGES = [Stage(f"image-{n}", (GENE,)) for n in range(2)]


def assigned(*stages: Any) -> list[Assignment]:
    nothing: Any = None
    return [Assignment(stage=stage, placed=nothing, title=f"title of {stage.key}") for stage in stages]


def played(scene: Callable[[StageQueue], Awaitable[None]], max_failures: int = 1) -> None:
    async def play() -> None:
        await asyncio.wait_for(scene(StageQueue(max_failures)), 20)

    asyncio.run(play())


async def key_of(queue: StageQueue, slot: str, incarnation: int, number: int) -> str | None:
    found = await queue.take(slot, incarnation, number)
    return None if found is None else found.key


def test_all_workers_of_a_group_are_given_the_same_stages_in_the_same_order() -> None:
    async def scene(queue: StageQueue) -> None:
        first = await queue.join("s1")
        await queue.add(assigned(GENE, *IMAGES, Stage("other")))
        # The second worker asks later, and for the next stage before the first worker is done with this one, though
        # another one is ready.
        assert await key_of(queue, "s1", first, 0) == "gene"
        assert await key_of(queue, "s1", first, 0) == "gene"
        early = asyncio.create_task(key_of(queue, "s1", first, 1))
        await asyncio.sleep(0.05)
        assert not early.done()
        await queue.done("s1", "gene", 1.0, 0.0)
        assert await early == await key_of(queue, "s1", first, 1) == "image-0"
        standing = await queue.standing(0)
        assert [(end.key, end.error) for end in standing.ended] == [("gene", None)]
        assert standing.unfinished == 3

    played(scene)


def test_trials_that_need_one_stage_train_it_one_after_the_other() -> None:
    async def scene(queue: StageQueue) -> None:
        slots = {name: await queue.join(name) for name in ("s1", "s2")}
        await queue.add(assigned(GENE, IMAGES[0]), "trial 1")
        await queue.add(assigned(GENE, IMAGES[1]), "trial 2")
        assert await key_of(queue, "s1", slots["s1"], 0) == "gene"
        waits = asyncio.create_task(key_of(queue, "s2", slots["s2"], 0))
        await asyncio.sleep(0.05)
        assert not waits.done()
        await queue.epoch_over("gene", {"epoch": 1, "loss": 1.0})
        await queue.done("s1", "gene", 1.0, 0.0)
        assert {await waits, await key_of(queue, "s1", slots["s1"], 1)} == {"image-0", "image-1"}
        # Both hear of the stage, whoever asked for it first.
        for _ in range(2):
            metrics, ended = await queue.result("gene", 0)
            assert metrics == {1: {"epoch": 1, "loss": 1.0}}
            assert ended is not None
            assert ended.error is None

    played(scene)


def test_a_lost_group_is_answered_no_more_and_its_stage_goes_to_another_slot() -> None:
    async def scene(queue: StageQueue) -> None:
        old = await queue.join("s1")
        other = await queue.join("s2")
        await queue.add(assigned(GENE))
        assert await key_of(queue, "s1", old, 0) == "gene"
        idle = asyncio.create_task(key_of(queue, "s1", old, 1))
        await queue.lost("s1", "lost its workers")
        assert await idle is None
        assert await key_of(queue, "s2", other, 0) == "gene"
        # The new group of the first slot takes nothing from it.
        new = await queue.join("s1")
        assert new != old
        await queue.done("s2", "gene", 1.0, 0.0)
        assert (await queue.standing(0)).unfinished == 0

    played(scene)


def test_a_group_that_joins_again_gives_back_what_the_one_before_it_ran() -> None:
    async def scene(queue: StageQueue) -> None:
        old = await queue.join("s1")
        await queue.add(assigned(GENE))
        assert await key_of(queue, "s1", old, 0) == "gene"
        assert await key_of(queue, "s1", await queue.join("s1"), 0) == "gene"

    played(scene)


def test_a_stage_lost_too_often_fails_with_those_that_need_it_and_says_why() -> None:
    async def scene(queue: StageQueue) -> None:
        await queue.add(assigned(GENE, *IMAGES))
        for _ in range(2):
            assert await key_of(queue, "s1", await queue.join("s1"), 0) == "gene"
            await queue.lost("s1", "RuntimeError: out of memory")
        ended = (await queue.standing(0)).ended
        assert [end.key for end in ended] == ["gene", "image-0", "image-1"]
        error = ended[0].error
        assert isinstance(error, RunError)
        (problem,) = error.problems
        assert problem.place == "title of gene"
        assert problem.what == "RuntimeError: out of memory; it failed 2 times (run.max_failures is 1)"
        # What is added later and needs it fails as well.
        await queue.add(assigned(Stage("late", (GENE,))))
        assert [end.key for end in (await queue.standing(0)).ended] == ["late"]

    played(scene)


def test_a_fault_of_the_input_is_not_tried_again() -> None:
    async def scene(queue: StageQueue) -> None:
        joined = await queue.join("s1")
        await queue.add(assigned(GENE, Stage("other")))
        taken = await key_of(queue, "s1", joined, 0)
        assert taken is not None
        error = InputError(Problem("P2", "is at fault"))
        await queue.fail("s1", taken, error)
        assert (await queue.standing(0)).ended[0].error is error
        assert await key_of(queue, "s1", joined, 1) == "other"

    played(scene)


def test_a_withdrawn_stage_ends_at_its_next_epoch_and_is_no_failure() -> None:
    async def scene(queue: StageQueue) -> None:
        joined = await queue.join("s1")
        await queue.add(assigned(GENE, *IMAGES), "trial")
        assert await key_of(queue, "s1", joined, 0) == "gene"
        assert await queue.epoch_over("gene", {"epoch": 1}) == "go on"
        await queue.withdraw("trial")
        assert await queue.epoch_over("gene", {"epoch": 2}) == "stop"
        await queue.drop("s1", "gene")
        standing = await queue.standing(0)
        assert standing.ended == ()
        assert standing.unfinished == 0
        # Asked for again, it is run again.
        await queue.add(assigned(GENE), "another")
        assert await key_of(queue, "s1", joined, 1) == "gene"
        assert await queue.epoch_over("gene", {"epoch": 1}) == "go on"

    played(scene)


@pytest.mark.parametrize("given_up", [False, True], ids=["before its epoch ends", "after it was given up"])
def test_a_stage_that_is_asked_for_again_while_it_is_withdrawn_is_run_to_its_end(given_up: bool) -> None:
    async def scene(queue: StageQueue) -> None:
        joined = await queue.join("s1")
        await queue.add(assigned(GENE), "trial")
        assert await key_of(queue, "s1", joined, 0) == "gene"
        await queue.withdraw("trial")
        if given_up:
            assert await queue.epoch_over("gene", {"epoch": 2}) == "stop"
        assert await queue.add(assigned(GENE), "another") == 1
        if given_up:
            await queue.drop("s1", "gene")
            assert await key_of(queue, "s1", joined, 1) == "gene"
        assert await queue.epoch_over("gene", {"epoch": 1}) == "go on"
        await queue.done("s1", "gene", 1.0, 0.0)
        assert (await queue.result("gene", 9))[1] is not None

    played(scene)


def gated(key: str, *gates: int) -> Assignment:
    nothing: Any = None
    stage: Any = Stage(key)
    return Assignment(stage=stage, placed=nothing, title=key, gates=gates)


def test_a_stage_at_a_gate_gives_its_slot_to_one_that_waits_until_it_is_permitted() -> None:
    async def scene(queue: StageQueue) -> None:
        joined = await queue.join("s1")
        await queue.add([gated("a", 2), gated("b", 2)], "trial")
        assert await key_of(queue, "s1", joined, 0) == "a"
        assert await queue.epoch_over("a", {"epoch": 1}) == "go on"
        assert await queue.epoch_over("a", {"epoch": 2}) == "pause"
        await queue.pause("s1", "a")
        assert await key_of(queue, "s1", joined, 1) == "b"
        # Nothing else waits: it goes on whether or not it is permitted.
        assert await queue.epoch_over("b", {"epoch": 2}) == "go on"
        assert (await queue.standing(0)).unfinished == 2
        await queue.permit(["a", "b"], 2)
        await queue.done("s1", "b", 1.0, 0.0)
        assert await key_of(queue, "s1", joined, 2) == "a"
        assert await queue.epoch_over("a", {"epoch": 2}) == "go on", "after a loss, from an earlier checkpoint"
        metrics, ended = await queue.result("a", 1)
        assert (list(metrics), ended) == ([2], None)

    played(scene)


def test_a_permit_that_comes_before_the_pause_lets_the_stage_wait_for_a_slot_only() -> None:
    async def scene(queue: StageQueue) -> None:
        joined = await queue.join("s1")
        await queue.add([gated("a", 1), gated("b")], "trial")
        assert await key_of(queue, "s1", joined, 0) == "a"
        assert await queue.epoch_over("a", {"epoch": 1}) == "pause"
        await queue.permit(["a"], 1)
        await queue.pause("s1", "a")
        assert await key_of(queue, "s1", joined, 1) == "a"

    played(scene)


def test_a_paused_stage_that_is_withdrawn_leaves_the_queue() -> None:
    async def scene(queue: StageQueue) -> None:
        joined = await queue.join("s1")
        await queue.add([gated("a", 1), gated("b")], "trial")
        assert await key_of(queue, "s1", joined, 0) == "a"
        assert await queue.epoch_over("a", {"epoch": 1}) == "pause"
        await queue.pause("s1", "a")
        await queue.withdraw("trial")
        assert (await queue.standing(0)).unfinished == 0

    played(scene)


@pytest.mark.parametrize("how", ["close", "dismiss"])
def test_idle_slots_end_when_they_are_told_to_and_busy_ones_after_their_stage(how: str) -> None:
    async def scene(queue: StageQueue) -> None:
        busy, idle = await queue.join("busy"), await queue.join("idle")
        await queue.add(assigned(GENE))
        assert await key_of(queue, "busy", busy, 0) == "gene"
        waits = asyncio.create_task(queue.take("idle", idle, 0))
        await asyncio.sleep(0.05)
        await (queue.close() if how == "close" else queue.dismiss(1))
        assert await waits is None
        await queue.done("busy", "gene", 1.0, 0.0)
        again = asyncio.create_task(queue.take("busy", busy, 1))
        await asyncio.sleep(0.05)
        assert again.done() == (how == "close")
        await queue.close()
        assert await again is None

    played(scene)


def test_groups_that_are_lost_before_they_take_a_stage_are_counted_until_one_takes_a_stage() -> None:
    async def scene(queue: StageQueue) -> None:
        await queue.lost("s1", "ModuleNotFoundError")  # before it could join
        await queue.join("s1")
        await queue.lost("s1", "OutOfMemory")
        standing = await queue.standing(0)
        assert (standing.barren, standing.reason) == (2, "OutOfMemory")
        await queue.add(assigned(GENE))
        assert await key_of(queue, "s1", await queue.join("s1"), 0) == "gene"
        assert (await queue.standing(0)).barren == 0
        # A loss that is told twice, by the worker and by its controller, is none of these.
        await queue.lost("s1", "RuntimeError")
        await queue.lost("s1", "RuntimeError")
        assert (await queue.standing(0)).barren == 0

    played(scene)
