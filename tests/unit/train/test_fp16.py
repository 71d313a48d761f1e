"""Gradients in fp16: what a skipped step leaves alone, and a compiled encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stray.config import ContrastiveOptimConfig
from stray.errors import NotFiniteError
from stray.stages.faults import naming_spots
from stray.track.tracker import MemoryTracker
from stray.training.loop import fit
from stray.training.state import TrainState
from stray.training.task import StepOutput
from stray.training.update import update
from stray.training.worker import LocalWorker
from tests.support.small_training import image_task

OPTIM = ContrastiveOptimConfig(lr=0.1, decoupled=True, schedule="cosine", ema_decay=0.5)


def step_of(state: TrainState, *, steep: bool, rate: float) -> torch.Tensor:
    """A step down the sum of squares; a steep one has a finite loss and a gradient that is not."""
    losses = [p.square().sum() + ((p * 0).sum().sqrt() if steep else 0.0) for p in state.module.parameters()]
    found = update(state, StepOutput(torch.stack(losses).sum(), {}, 1), rate, 1.0)
    state.after_step()
    return found


def frozen(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {name: frozen(value) for name, value in tree.items()}
    return [frozen(value) for value in tree] if isinstance(tree, list) else tree


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


def test_a_step_that_overflows_leaves_all_as_it_was_but_the_scale_and_the_next_takes_its_own_rate() -> None:
    state = TrainState.start(torch.nn.Linear(3, 2), OPTIM, torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert state.scaler is not None
    loss, norm, taken = step_of(state, steep=False, rate=0.1).tolist()
    assert taken == 1
    assert norm > 0
    before = frozen(state.state_dict())
    loss, norm, taken = step_of(state, steep=True, rate=0.09).tolist()
    assert (taken, np.isfinite(loss), np.isfinite(norm)) == (0, True, False)
    after = frozen(state.state_dict())
    assert state.scaler.get_scale() == 512
    groups = [group.pop("lr") for group in after["optimizer"]["param_groups"]]
    assert groups == [0.09] * len(groups)
    for group in before["optimizer"]["param_groups"]:
        group.pop("lr")
    for name in before.keys() - {"scaler"}:
        assert same(after[name], before[name]), name
    step_of(state, steep=False, rate=0.08)
    assert not state.skipped
    assert state.average is not None
    assert state.average.steps == 2
    assert {group["lr"] for group in state.optimizer.param_groups} == {0.08}


def test_scaled_steps_are_those_of_an_unscaled_optimiser() -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    twin = torch.nn.Linear(3, 2)
    twin.load_state_dict(module.state_dict())
    scaled = TrainState.start(module, OPTIM, torch.amp.GradScaler("cpu"))
    plain = TrainState.start(twin, OPTIM)
    for rate in (0.1, 0.05, 0.02):
        found = [step_of(state, steep=False, rate=rate) for state in (scaled, plain)]
        torch.testing.assert_close(found[0], found[1])  # the norm that is clipped and logged is unscaled
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name])


def test_a_gradient_that_overflows_without_any_scale_is_at_fault_itself() -> None:
    task = image_task(precision="fp16")
    original = task.step

    def step(batch: Any, noise: Any) -> StepOutput:
        from dataclasses import replace

        output = original(batch, noise)
        return replace(output, loss=output.loss + (next(task.module.image_head.parameters()) * 0).sum().sqrt())

    task.step = step
    spots: Any = type("Spots", (), {"section": np.array(["S"] * 10), "spot_id": np.array(["s"] * 10)})
    match = r"contrastive epoch 1, step 4 of 6: loss .*, gradient norm nan"
    places = lambda term, epoch, step: task.plan.batches(epoch)[step]  # noqa: E731
    with pytest.raises(NotFiniteError, match=match), naming_spots("contrastive", places, lambda places: spots):
        fit(
            task,
            task.config.optim,
            worker=LocalWorker(),
            tracker=MemoryTracker(),
            prefix="contrastive",
            seed=5,
            scaler=torch.amp.GradScaler("cpu", init_scale=8.0),  # three halvings
        )


def trained(**changes: Any) -> tuple[TrainState, list[float]]:
    task, tracker = image_task(**changes), MemoryTracker()
    state = fit(
        task,
        task.config.optim,
        worker=LocalWorker(),
        tracker=tracker,
        prefix="contrastive",
        seed=5,
        scaler=task.scaler(),
    )
    return state, [value for _, value in tracker.series("contrastive/step_loss")]


def test_a_stage_in_fp16_trains_much_as_in_fp32_and_counts_what_it_skipped() -> None:
    (state, losses), (_, expected) = (trained(precision=name) for name in ("fp16", "fp32"))
    np.testing.assert_allclose(losses[0], expected[0], rtol=1e-2)
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    skipped = sum(epoch["skipped_steps"] for epoch in state.history)
    assert all(np.isfinite(epoch["gradient_norm"]) for epoch in state.history)
    steps = {int(of["step"]) for of in state.optimizer.state.values()}
    assert steps == {4 * 6 - skipped}
    assert state.scaler is not None
    assert state.scaler.get_scale() == 65536 / 2**skipped
    assert image_task(precision="bf16").scaler() is None


@pytest.mark.slow
def test_a_compiled_encoder_trains_to_the_same_losses_and_keeps_the_names_of_its_weights() -> None:
    (state, losses), (plain, expected) = (trained(compile=compiled, epochs=2) for compiled in (True, False))
    np.testing.assert_allclose(losses[:6], expected[:6], rtol=1e-3)
    assert state.module.state_dict().keys() == plain.module.state_dict().keys()
    assert state.module.image_encoder.backbone._compiled_call_impl is not None  # pyright: ignore


@pytest.mark.slow
def test_a_compiled_encoder_takes_its_batches_in_chunks() -> None:
    changes: dict[str, Any] = {"accumulate": 3, "accumulate_batch_norm": "per_chunk", "epochs": 1}
    (_, losses), (_, expected) = (trained(compile=compiled, **changes) for compiled in (True, False))
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
