"""Checkpoints within an epoch on two gloo processes: gone on with on two bit for bit, and on one at the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stray.track.tracker import NullTracker
from stray.training.checkpoints import CheckpointInterval
from stray.training.loop import fit
from stray.training.worker import LocalWorker
from tests.support.gloo import Job, run_on
from tests.support.small_training import gene_task, image_task

MEASURED = ("spots_per_second", "waiting_for_data_share", "peak_memory_gib")
STAGES = ("gene", "contrastive")
STEPS = {"gene": 6, "contrastive": 6}


class Interrupted(Exception):
    pass


def train(stage: str, checkpoint: str | None, end_at: int | None = None) -> tuple[list[dict[str, float]], Any]:
    """The history and the weights, or nothing where the training was ended before its `end_at`-th step."""
    # An odd batch: the shares of two workers differ.
    task = gene_task(batch_size=9) if stage == "gene" else image_task(batch_size=9)
    assert task.plan.steps == STEPS[stage]
    original, left = task.step, [end_at]

    def step(batch: Any, noise: Any) -> Any:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise Interrupted
        return original(batch, noise)

    task.step = step
    try:
        state = fit(
            task,
            task.config.optim,
            worker=LocalWorker(checkpoint),
            tracker=NullTracker(),
            prefix=stage,
            seed=5,
            checkpoint_every=CheckpointInterval(epochs=100, steps=3),
        )
    except Interrupted:
        return [], {}
    history = [{name: value for name, value in epoch.items() if name not in MEASURED} for epoch in state.history]
    return history, {name: value.numpy() for name, value in state.module.state_dict().items()}


def ended_and_gone_on_with(stage: str, folder: str) -> tuple[list[dict[str, float]], Any]:
    """On as many processes as before."""
    path = f"{folder}/{stage}-same.pt"
    train(stage, path, end_at=STEPS[stage] + 5)
    return train(stage, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def on_two(folder: Path) -> dict[str, list[Any]]:
    jobs: dict[str, Job] = {}
    for stage in STAGES:
        jobs[f"whole {stage}"] = (train, (stage, None))
        jobs[f"resumed {stage}"] = (ended_and_gone_on_with, (stage, str(folder)))
        jobs[f"left {stage}"] = (train, (stage, f"{folder}/{stage}-other.pt", STEPS[stage] + 5))
    return run_on(2, jobs)


@pytest.mark.parametrize("stage", STAGES)
def test_on_as_many_workers_metrics_and_weights_are_equal_bit_for_bit(stage: str, on_two: dict[str, list[Any]]) -> None:
    for (history, weights), (again, same) in zip(on_two[f"whole {stage}"], on_two[f"resumed {stage}"], strict=True):
        assert len(history) == 4
        assert again == history
        assert all((weights[name] == same[name]).all() for name in weights)


@pytest.mark.parametrize("stage", STAGES)
def test_on_fewer_workers_epoch_step_and_what_the_epoch_had_come_to_are_kept(
    stage: str, on_two: dict[str, list[Any]], folder: Path
) -> None:
    path = folder / f"{stage}-other.pt"
    saved = LocalWorker(path).restore()
    assert saved is not None
    total = (STEPS[stage] + 5) // 3 * 3
    assert (saved["epoch"], saved["step"]) == divmod(total, STEPS[stage])
    assert saved["so_far"]["sums"]["of_rank"].shape[0] == 2
    history, _ = on_two[f"whole {stage}"][0]
    with torch.random.fork_rng():
        again, _ = train(stage, str(path))
    assert len(again) == 4
    assert again[:1] == history[:1]
    # The epoch's means hold what both workers had summed before, over all its spots.
    for name, value in history[1].items():
        assert again[1][name] == pytest.approx(value, rel=2e-3, abs=2e-3), name
