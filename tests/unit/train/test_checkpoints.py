"""Checkpoints within an epoch: a training that is ended at any step goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stray.config import ContrastiveOptimConfig, OptimConfig
from stray.errors import NotFiniteError, Problem
from stray.stages.contrastive.task import ContrastiveTask
from stray.stages.faults import naming_spots
from stray.stages.gene.task import GeneTask
from stray.track.tracker import MemoryTracker
from stray.training.checkpoints import CheckpointInterval
from stray.training.loop import fit
from stray.training.selection import Selection
from stray.training.state import TrainState
from stray.training.worker import LocalWorker
from tests.support.small_training import gene_task, image_task

MEASURED = ("spots_per_second", "waiting_for_data_share", "peak_memory_gib")
STAGES = ("gene", "contrastive", "contrastive in fp16")


class Interrupted(Exception):
    pass


def task_of(stage: str) -> GeneTask | ContrastiveTask:
    if stage == "gene":
        return gene_task(optim=OptimConfig(lr=5e-3, schedule="plateau", plateau_patience=1, clip_norm=5.0))
    optim = ContrastiveOptimConfig(
        lr=5e-3, decoupled=True, schedule="cosine", warmup_share=0.3, ema_decay=0.9, layer_decay=0.5
    )
    return image_task(optim=optim, precision="fp16" if stage.endswith("fp16") else "fp32")


def train(
    stage: str,
    every: CheckpointInterval,
    *,
    checkpoint: Path | None = None,
    end_at: int | None = None,
    worker: LocalWorker | None = None,
    tracker: MemoryTracker | None = None,
) -> TrainState:
    """To the end, or to the `end_at`-th step that this process takes."""
    task = task_of(stage)
    original, left = task.step, [end_at]

    def step(batch: Any, noise: Any) -> Any:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise Interrupted
        return original(batch, noise)

    task.step = step
    return fit(
        task,
        task.config.optim,
        worker=worker or LocalWorker(checkpoint),
        tracker=tracker or MemoryTracker(),
        prefix=stage,
        seed=5,
        checkpoint_every=every,
        selection=Selection("validation_elbo", keep_best=True) if stage == "gene" else None,
        scaler=task.scaler() if isinstance(task, ContrastiveTask) else None,
    )


def untimed(history: Any) -> list[dict[str, float]]:
    return [{name: value for name, value in epoch.items() if name not in MEASURED} for epoch in history]


def assert_equal(found: Any, expected: Any, place: str = "state") -> None:
    """Bit for bit, through dicts and lists; what was measured of the run excepted."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, place
        assert torch.equal(found, expected), place
    elif isinstance(expected, Mapping):
        assert found.keys() == expected.keys(), place
        for name in expected.keys() - {*MEASURED, "seconds", "waited"}:
            assert_equal(found[name], expected[name], f"{place}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{place}.{number}")
    else:
        assert found == expected, place


@pytest.fixture(scope="module", params=STAGES)
def whole(request: pytest.FixtureRequest) -> tuple[str, TrainState, MemoryTracker]:
    """An uninterrupted training without checkpoints."""
    tracker = MemoryTracker()
    return request.param, train(request.param, CheckpointInterval(epochs=100), tracker=tracker), tracker


@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_training_ended_at_a_random_step_goes_on_to_the_same_state_and_metrics(
    whole: tuple[str, TrainState, MemoryTracker], n: int, tmp_path: Path
) -> None:
    stage, expected, logged = whole
    steps = task_of(stage).plan.steps
    assert steps >= 5
    end = int(np.random.default_rng([n, len(stage)]).integers(n + 1, 4 * steps - 1))
    tracker, again = MemoryTracker(), MemoryTracker()
    with pytest.raises(Interrupted):
        train(stage, CheckpointInterval(epochs=100, steps=n), checkpoint=tmp_path / "s.pt", end_at=end, tracker=tracker)
    saved = LocalWorker(tmp_path / "s.pt").restore()
    assert saved is not None
    assert saved["epoch"] * steps + saved["step"] == end // n * n
    found = train(stage, CheckpointInterval(epochs=100, steps=n), checkpoint=tmp_path / "s.pt", tracker=again)
    assert_equal(found.state_dict(), expected.state_dict())
    for name in (f"{stage}/step_loss", f"{stage}/loss", f"{stage}/gradient_norm", f"{stage}/learning_rate"):
        # An epoch that was over after the checkpoint is said again, to the last digit; a store keeps it once.
        said = {**dict(tracker.series(name)), **dict(again.series(name))}
        assert list(said.items()) == logged.series(name)
        assert set(tracker.series(name)) <= set(logged.series(name))
        if saved["epoch"] * steps + steps > end:
            assert tracker.series(name) + again.series(name) == logged.series(name), "nothing lost, nothing twice"


def test_a_checkpoint_holds_all_that_the_uninterrupted_training_has_at_that_step(
    whole: tuple[str, TrainState, MemoryTracker], tmp_path: Path
) -> None:
    stage = whole[0]
    states: dict[tuple[int, int], dict[str, Any]] = {}

    class Keeper(LocalWorker):
        def report(self, metrics: Mapping[str, float], state: Mapping[str, Any] | None) -> str | None:
            place = super().report(metrics, state)
            kept = super().restore()  # as it comes back from the file
            if state is not None and kept is not None:
                assert (kept["epoch"], kept["step"]) not in states or self.resumed
                if (at := (kept["epoch"], kept["step"])) in states:
                    assert_equal(kept, states[at], str(at))
                states[at] = kept
            return place

        resumed = False

    train(stage, CheckpointInterval(steps=2), worker=Keeper(tmp_path / "whole.pt"))
    steps = task_of(stage).plan.steps
    assert {epoch * steps + step for epoch, step in states} >= set(range(2, 4 * steps, 2))
    with pytest.raises(Interrupted):
        train(stage, CheckpointInterval(steps=2), checkpoint=tmp_path / "ended.pt", end_at=steps + 4)
    worker = Keeper(tmp_path / "ended.pt")
    worker.resumed = True
    train(stage, CheckpointInterval(steps=2), worker=worker)  # every later checkpoint is compared with its twin
    middle = states[1, 2 if steps % 2 == 0 else 1]
    assert middle["optimizer"]["state"]
    assert len(middle["so_far"]["steps"]) == middle["step"]
    if stage == "gene":
        assert middle["best"] is not None
    else:
        skipped = int((middle["so_far"]["steps"][:, 2] == 0).sum()) + middle["history"][0].get("skipped_steps", 0)
        assert (skipped > 0) is stage.endswith("fp16")
        assert middle["average"]["steps"] == steps + middle["step"] - skipped
        assert ("scaler" in middle) is stage.endswith("fp16")


def test_checkpoints_fall_on_every_nth_step_of_the_training_and_on_the_ends_that_are_asked_for() -> None:
    class Told(LocalWorker):
        def report(self, metrics: Mapping[str, float], state: Mapping[str, Any] | None) -> str | None:
            if state is not None:
                kept.append((state["epoch"], state["step"]))
            return super().report(metrics, state)

    for every, expected in {
        CheckpointInterval(): [(1, 0), (2, 0), (3, 0), (4, 0)],
        CheckpointInterval(epochs=3): [(3, 0), (4, 0)],
        CheckpointInterval(epochs=9, steps=4): [(0, 4), (1, 2), (2, 0), (2, 4), (3, 2), (4, 0)],
        CheckpointInterval(epochs=2, steps=6): [(1, 0), (2, 0), (3, 0), (4, 0)],
    }.items():
        kept: list[tuple[int, int]] = []
        worker = Told()
        train("contrastive", every, worker=worker)
        assert kept == expected
        assert [report["epoch"] for report in worker.reports if "step" not in report] == [1, 2, 3, 4]


def test_a_step_that_is_not_finite_leaves_the_checkpoint_before_it_which_is_named(tmp_path: Path) -> None:
    task = image_task()
    original = task.step

    def step(batch: Any, noise: Any) -> Any:
        from dataclasses import replace

        output = original(batch, noise)
        return replace(output, loss=output.loss * torch.nan) if (noise.epoch, noise.step) == (1, 4) else output

    task.step = step
    places = lambda term, epoch, step: task.plan.batches(epoch)[step]  # noqa: E731
    with pytest.raises(NotFiniteError) as caught, naming_spots("contrastive", places, lambda places: SPOTS_AT):
        fit(
            task,
            task.config.optim,
            worker=LocalWorker(tmp_path / "s.pt"),
            tracker=MemoryTracker(),
            prefix="contrastive",
            seed=5,
            checkpoint_every=CheckpointInterval(steps=2),
        )
    told = str(caught.value)
    assert "contrastive epoch 2, step 5 of 6: loss nan" in told
    assert f"the last good checkpoint is that after step 4 of epoch 2 ({tmp_path / 's.pt'})" in told
    saved = LocalWorker(tmp_path / "s.pt").restore()
    assert saved is not None
    assert (saved["epoch"], saved["step"]) == (1, 4)
    assert all(value.isfinite().all() for value in saved["module"].values())


def test_the_error_names_the_step_where_there_is_one() -> None:
    problem = Problem("gene epoch 1, step 9 of 9", "loss nan", "less")
    assert "after step 6 of epoch 1 (/c)" in str(NotFiniteError(problem, 0, "/c", 6))
    assert "no checkpoint was written before" in str(NotFiniteError(problem, 0, "/c"))


class _Spots:
    section = spot_id = np.array(["S1"] * 10)


SPOTS_AT: Any = _Spots()
