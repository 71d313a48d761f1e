"""Queue of stages that slots take from: an actor that holds no CPU, on the driver's node.

It alone knows which slot runs what. A slot that is lost gives its stage back, and the next slot that takes it goes on
from the stage's last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stray.errors import Problem, RunError
from stray.experiment.graph import StageGraph
from stray.on_ray.assignment import LOST, Assignment, Ended, Standing, Verdict


@dataclass
class _Slot:
    incarnation: int = 0
    """Number of worker groups that this slot has had: one that was lost is answered no more."""
    given: list[str | None] = field(default_factory=list)
    """Keys of the stages that the present group was given, in order; None: it ends."""
    key: str | None = None
    """Key of the stage that it runs."""


class StageQueue:
    """Stages in a graph; see `open_stage_queue` for the actor."""

    def __init__(self, max_failures: int) -> None:
        self._graph = StageGraph(max_failures)
        self._max_failures = max_failures
        self._work: dict[str, Assignment] = {}
        self._slots: dict[str, _Slot] = {}
        self._ended: list[Ended] = []
        self._results: dict[str, Ended] = {}
        self._epochs: dict[str, dict[int, Mapping[str, float]]] = {}
        self._permitted: dict[str, int] = {}
        """Key of a stage -> the last gate that it may pass."""
        self._withdrawn: set[str] = set()
        self._closed = False
        self._dismissed, self._barren, self._reason = 0, 0, ""
        self._changed = asyncio.Condition()

    async def add(self, assignments: Sequence[Assignment], owner: str = "") -> int:
        """Add stages, each after those that it reads; one that is there already gets another owner.

        Returns the number of stages that are waiting, running or paused.
        """
        for one in assignments:
            key = one.key
            failed = next((self._results[need] for need in one.needs if self._graph.state(need) == "failed"), None)
            if failed is not None:
                self._end(Ended(key, failed.error))
                continue
            state = self._graph.add(key, needs=one.needs, seconds=one.seconds, owner=owner)
            self._withdrawn.discard(key)
            if state == "open":
                self._work[key] = one
                self._results.pop(key, None)
            elif state == "done":
                self._ended.append(self._results[key])
        await self._tell()
        return self._graph.unfinished

    async def join(self, slot: str) -> int:
        """Return the number of a slot's new worker group; the stage of the group before it is given back."""
        self._give_back(slot, LOST)
        found = self._slots.setdefault(slot, _Slot())
        found.incarnation += 1
        found.given.clear()
        await self._tell()
        return found.incarnation

    async def take(self, slot: str, incarnation: int, number: int) -> Assignment | None:
        """Return the stage that a slot's worker group runs as its `number`-th, the same to all workers of the group;
        waits until there is one. None: the group is to end.
        """
        if (found := self._slots.get(slot)) is None:
            return None
        async with self._changed:
            while found.incarnation == incarnation and len(found.given) <= number:
                if found.key is None:
                    if self._closed or self._dismissed > 0:
                        self._dismissed = max(0, self._dismissed - 1)
                        found.given.append(None)
                        break
                    if (key := self._graph.take(slot)) is not None:
                        found.key, self._barren = key, 0
                        found.given.append(key)
                        break
                await self._changed.wait()
        if found.incarnation != incarnation:
            return None
        key = found.given[number]
        return None if key is None else self._work.get(key)

    async def epoch_over(self, key: str, metrics: Mapping[str, float]) -> Verdict:
        """Keep the metrics of a stage after an `epoch`, which are among them; return what becomes of the stage."""
        epoch = int(metrics["epoch"])
        self._epochs.setdefault(key, {})[epoch] = metrics
        await self._tell()
        if key in self._withdrawn:
            return "stop"
        work = self._work.get(key)
        gate = work is not None and epoch in work.gates and epoch > self._permitted.get(key, 0)
        return "pause" if gate and self._graph.has_ready else "go on"

    async def pause(self, slot: str, key: str) -> None:
        """Take back a stage that waits at a gate; it goes on at once where that was permitted meanwhile."""
        self._free(slot, key)
        if key in self._withdrawn:
            self._graph.drop(key)
        elif self._permitted.get(key, 0) >= max(self._epochs[key]):
            self._graph.reopen(key)
        else:
            self._graph.pause(key)
        await self._tell()

    async def permit(self, keys: Sequence[str], epoch: int) -> None:
        """Let stages pass their gate at `epoch`."""
        for key in keys:
            self._permitted[key] = max(epoch, self._permitted.get(key, 0))
            self._graph.resume(key)
        await self._tell()

    async def done(self, slot: str, key: str, seconds: float, waited_s: float) -> None:
        """Mark a stage as done, after `seconds` of work and `waited_s` in which the slot was free before."""
        self._free(slot, key)
        if key in self._withdrawn:
            self._graph.drop(key)
        self._graph.done(key)
        self._end(Ended(key, None, seconds, waited_s))
        await self._tell()

    async def fail(self, slot: str, key: str, error: Exception) -> None:
        """Mark a stage as failed for good; those that need it fail with it."""
        self._free(slot, key)
        for failed in self._graph.fail(key):
            self._end(Ended(failed, error))
        await self._tell()

    async def drop(self, slot: str, key: str) -> None:
        """Take note that the withdrawn stage is given up; it waits again where it was asked for meanwhile."""
        self._free(slot, key)
        if key in self._withdrawn:
            self._graph.drop(key)
            self._work.pop(key, None)
        else:
            self._graph.reopen(key)
        await self._tell()

    async def lost(self, slot: str, reason: str) -> None:
        """Give back the stage of a slot, for a reason such as "lost its workers"; its group gets no further stage."""
        self._give_back(slot, reason)
        found = self._slots.get(slot)
        if found is None or not found.given:
            self._barren, self._reason = self._barren + 1, reason
        if found is not None:
            found.incarnation += 1
        await self._tell()

    async def leave(self, slot: str, reason: str) -> bool:
        """Forget a slot that ended (for a `reason`: it was lost); return whether its workers were ever there."""
        if reason:
            await self.lost(slot, reason)
        return self._slots.pop(slot, None) is not None

    async def withdraw(self, owner: str) -> None:
        """Remove the stages that only this owner wants; running ones end at their next epoch."""
        self._withdrawn |= set(self._graph.withdraw(owner))
        await self._tell()

    async def standing(self, timeout: float) -> Standing:
        """Return the stages that ended since the last call, waiting for one at most `timeout` seconds."""
        async with self._changed:
            if not self._ended:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait_for(lambda: bool(self._ended)), timeout)
            ended, self._ended = tuple(self._ended), []
        return Standing(ended, self._graph.unfinished, len(self._slots), self._barren, self._reason)

    async def result(self, key: str, epoch: int) -> tuple[dict[int, Mapping[str, float]], Ended | None]:
        """Return the metrics of a stage's epochs after `epoch`, and its end once there is one; waits until there is
        something new.
        """

        def later() -> dict[int, Mapping[str, float]]:
            return {at: metrics for at, metrics in self._epochs.get(key, {}).items() if at > epoch}

        async with self._changed:
            await self._changed.wait_for(lambda: key in self._results or bool(later()))
        return later(), self._results.get(key)

    async def dismiss(self, slots: int) -> None:
        """Let this many slots end as soon as they are idle."""
        self._dismissed += slots
        await self._tell()

    async def close(self) -> None:
        """Let every slot end as soon as it is idle."""
        self._closed = True
        await self._tell()

    def _give_back(self, slot: str, reason: str) -> None:
        if slot in self._slots:
            self._slots[slot].key = None
        key, failed = self._graph.lose(slot)
        if key is None:
            return
        times = self._graph.failures(key)
        what = f"{reason}; it failed {times} time{'s' if times > 1 else ''} (run.max_failures is {self._max_failures})"
        remedy = "see Ray's logs for the cause; the same command continues from the last checkpoint"
        title = self._work[key].title
        for one in failed:
            self._end(Ended(one, RunError(Problem(title, what, remedy))))

    def _free(self, slot: str, key: str) -> None:
        if slot in self._slots and self._slots[slot].key == key:
            self._slots[slot].key = None

    def _end(self, ended: Ended) -> None:
        self._results[ended.key] = ended
        self._ended.append(ended)
        # What it reads may leave the object store with the last stage that reads it.
        self._work.pop(ended.key, None)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def open_stage_queue(max_failures: int) -> Any:
    """Open a queue on the driver's node, which every worker can ask at the same time."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 10_000}
    actor: Any = ray.remote(**options)(StageQueue)
    return actor.options(scheduling_strategy=here).remote(max_failures)
