"""Larger grids on more slots, scheduled as the pool does, with times that were measured."""

from __future__ import annotations

from dataclasses import dataclass

from stray.experiment.schedule import Job, schedule

GRIDS = {24: (4, 3, 2), 120: (8, 5, 3), 1000: (20, 10, 5)}
"""Runs -> folds, methods, seeds."""
SLOTS = (1, 8, 64)


@dataclass(frozen=True)
class Simulated:
    """One grid on some slots."""

    runs: int
    slots: int
    wall_s: float
    utilisation: float
    """Part of the slots' time in which they run stages."""


def grid(folds: int, methods: int, seeds: int, *, gene_s: float, image_s: float) -> list[Job]:
    """Return the stages of a grid: methods of a fold and seed share its gene stage; one is the untrained encoder."""
    jobs = []
    for place in range(folds * seeds):
        jobs.append(Job(f"gene-{place}", gene_s))
        jobs.append(Job(f"untrained-{place}", 0.1 * image_s))
        jobs += [Job(f"image-{place}-{method}", image_s, (f"gene-{place}",)) for method in range(methods - 1)]
    return jobs


def simulate(*, gene_s: float, image_s: float, between_s: float) -> list[Simulated]:
    """Return each of `GRIDS` on each of `SLOTS`, with stages of so many seconds and so many between two."""
    found = []
    for runs, shape in GRIDS.items():
        jobs = grid(*shape, gene_s=gene_s, image_s=image_s)
        for slots in SLOTS:
            times = schedule(jobs, slots, between_s=between_s)
            found.append(Simulated(runs, slots, times.wall_s, times.utilisation))
    return found
