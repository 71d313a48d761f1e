"""Schedule of stages on slots, computed without running them: for the plan of an experiment and for a simulation."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from stray.experiment.cells import Group
from stray.experiment.estimate import Estimator
from stray.experiment.graph import StageGraph

START_S = 15.0
"""Seconds that the workers of a slot take to start, as measured on two cores."""


@dataclass(frozen=True)
class Job:
    """One stage to be scheduled."""

    key: str
    seconds: float
    needs: tuple[str, ...] = ()
    """Keys of the stages that it reads."""


@dataclass(frozen=True)
class Schedule:
    """Times of a schedule, in seconds."""

    work_s: float
    """Sum of all stages."""
    wall_s: float
    """Time from the start to the end of the last stage."""
    slots: int

    @property
    def utilisation(self) -> float:
        """Part of the slots' time in which they run stages; 1 where there is nothing to run."""
        return self.work_s / (self.slots * self.wall_s) if self.wall_s else 1.0


def schedule(jobs: Iterable[Job], slots: int, *, start_s: float = 0.0, between_s: float = 0.0) -> Schedule:
    """Return the times of `jobs` on `slots`, taken from the graph as the pool's slots take them.

    Args:
        jobs: The stages, each after those that it reads.
        slots: Number of slots.
        start_s: Seconds until a slot takes its first stage.
        between_s: Seconds that a slot takes from one stage to the next.
    """
    graph, seconds = StageGraph(), {}
    for job in jobs:
        graph.add(job.key, needs=job.needs, seconds=job.seconds)
        seconds[job.key] = job.seconds
    free = [f"slot-{number}" for number in range(slots)]
    running: list[tuple[float, str, str]] = []
    now = start_s if seconds else 0.0
    while graph.unfinished:
        while free and (key := graph.take(free[-1])) is not None:
            heapq.heappush(running, (now + between_s + seconds[key], free.pop(), key))
        now, slot, key = heapq.heappop(running)
        graph.done(key)
        free.append(slot)
    return Schedule(sum(seconds.values()), now, slots)


def jobs_of(groups: Iterable[Group], estimator: Estimator) -> list[Job]:
    """Return the pending stages of an experiment, each once, with their estimated seconds."""
    found: dict[str, Job] = {}
    for group in groups:
        for stage in group.stages():
            if stage.key not in found:
                needs = tuple(other.key for other in stage.inputs)
                found[stage.key] = Job(stage.key, estimator.stage(stage), needs)
    return list(found.values())
