"""Schedules of stages on slots: no slot idles while a stage is ready, and no stage runs before what it needs."""

from __future__ import annotations

import pytest

from jobs.benchmarks.pool.simulate import GRIDS, grid, simulate
from stray.experiment.schedule import Job, schedule


def test_one_slot_takes_the_sum_and_many_the_longest_chain() -> None:
    jobs = grid(2, 3, 1, gene_s=2.0, image_s=10.0)
    work = sum(job.seconds for job in jobs)
    assert schedule(jobs, 1).wall_s == pytest.approx(work)
    assert schedule(jobs, 1).utilisation == pytest.approx(1.0)
    assert schedule(jobs, 100).wall_s == pytest.approx(12.0)


def test_starts_and_pauses_are_counted_and_a_stage_that_is_shared_counts_once() -> None:
    jobs = [Job("gene", 2.0), Job("gene", 2.0), Job("image", 3.0, ("gene",))]
    times = schedule(jobs, 1, start_s=10.0, between_s=0.5)
    assert times.wall_s == pytest.approx(16.0)
    assert times.work_s == pytest.approx(5.0)
    assert schedule([], 4, start_s=10.0).wall_s == 0.0


def test_every_grid_fills_its_slots_where_there_are_four_times_as_many_runs() -> None:
    for one in simulate(gene_s=3.0, image_s=10.0, between_s=0.1):
        assert one.utilisation <= 1.0
        if one.runs >= 4 * one.slots:
            assert one.utilisation >= 0.9, one
    for runs, (folds, methods, seeds) in GRIDS.items():
        assert folds * methods * seeds == runs
