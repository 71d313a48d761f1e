"""The optimiser's groups of parameters, what a step does to them, and the average of the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stray.config import ContrastiveConfig, ContrastiveOptimConfig, OptimConfig
from stray.models.towers import ContrastiveModel
from stray.stages.contrastive.task import build
from stray.training.optim import WeightAverage, build_optimizer
from stray.training.state import TrainState
from stray.training.task import StepOutput
from stray.training.update import update

OPTIM = ContrastiveOptimConfig(lr=0.1, weight_decay=0.01, decoupled=True)
PARTS = {"layer4": 1, "layer3": 2, "layer2": 3, "layer1": 4, "conv1": 5, "bn1": 5}


@pytest.fixture(scope="module")
def model() -> ContrastiveModel:
    return build(ContrastiveConfig(), torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), seed=0)


def depth_of(name: str) -> int:
    place = name.split(".")
    return PARTS[place[2]] if place[0] == "image_encoder" else 0


def stepped(state: TrainState, rate: float) -> None:
    """One step down the sum of all squares."""
    losses = [p.square().sum() for p in state.module.parameters() if p.requires_grad]
    update(state, StepOutput(torch.stack(losses).sum(), {}, 1), rate, None)
    state.after_step()


@pytest.mark.parametrize("decoupled", [True, False], ids=["AdamW", "Adam"])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_every_trained_parameter_is_in_one_group(model: ContrastiveModel, factor: float, decoupled: bool) -> None:
    optimizer = build_optimizer(model, replace(OPTIM, layer_decay=factor, decoupled=decoupled))
    found = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(optimizer.param_groups) == (2 if decoupled else 1) * (1 if factor == 1 else 6)
    for group in optimizer.param_groups:
        decays = {p.dim() > 1 for p in group["params"]} if decoupled else {True}
        assert len(decays) == 1, "what is decayed and what is not are apart"
        assert group["weight_decay"] == (0.01 if decays == {True} else 0.0)


def test_a_step_moves_every_layer_at_its_share_of_the_scheduled_rate(model: ContrastiveModel) -> None:
    state = TrainState.start(model, replace(OPTIM, layer_decay=0.5))
    rates: dict[str, float] = {}
    for rate in (0.01, 0.004):  # the second shows that shares do not pile up
        stepped(state, rate)
        rate_of = {id(p): group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
        rates = {name: rate_of[id(p)] for name, p in model.named_parameters() if p.requires_grad}
        for name, found in rates.items():
            assert found == pytest.approx(rate * 0.5 ** depth_of(name), rel=1e-12), name
    assert len(set(rates.values())) == 6


def test_rates_by_layer_are_taken_up_again_from_a_checkpoint(model: ContrastiveModel) -> None:
    config = replace(OPTIM, layer_decay=0.5)
    saved = TrainState.start(model, config)
    stepped(saved, 0.01)
    state = TrainState.start(model, config)
    state.load_state_dict(saved.state_dict())
    stepped(state, 0.02)
    assert sorted({group["lr"] for group in state.optimizer.param_groups}) == pytest.approx(
        [0.02 * 0.5**depth for depth in range(5, -1, -1)]
    )


def test_without_a_factor_groups_are_those_of_a_plain_optimiser(model: ContrastiveModel) -> None:
    plain = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.01, decoupled=True))
    layered = build_optimizer(model, replace(OPTIM, layer_decay=1.0))
    assert plain.state_dict() == layered.state_dict()
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = [[p for p in trained if p.dim() > 1], [p for p in trained if p.dim() <= 1]]
    for groups in (plain.param_groups, layered.param_groups):
        assert [list(map(id, group["params"])) for group in groups] == [list(map(id, ps)) for ps in expected]


class Small(torch.nn.Module):
    """A weight and a batch norm: something trained, statistics, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.norm = torch.nn.BatchNorm1d(3)


def moved(module: Small, step: int) -> dict[str, Tensor]:
    """The state after drawing other weights."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
            else:
                value.fill_(step)
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("decay", [0.3, 0.999], ids=["the setting rules", "the start is forgotten"])
def test_the_average_is_its_recursion(decay: float) -> None:
    module = Small()
    expected = {name: value.double() for name, value in moved(module, 0).items()}
    average = WeightAverage(module, decay)
    for t in range(1, 30):
        now, d = moved(module, t), min(decay, (1 + t) / (10 + t))
        average.add(module)
        expected = {name: d * old + (1 - d) * now[name].double() for name, old in expected.items()}
    for name, value in average.weights.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5)
        else:
            assert value == 29, "counters are the last"
    assert all(torch.equal(value, now[name]) for name, value in module.state_dict().items()), "weights are left alone"


def test_the_average_goes_on_from_a_checkpoint_bit_for_bit() -> None:
    module = Small()
    moved(module, 0)
    whole, broken = WeightAverage(module, 0.9), WeightAverage(module, 0.9)
    for t in range(1, 20):
        moved(module, t)
        whole.add(module)
        if t == 10:
            saved, broken = broken.state_dict(), WeightAverage(Small(), 0.9)
            broken.load_state_dict(saved)
        broken.add(module)
    assert whole.steps == broken.steps == 19
    assert all(torch.equal(value, broken.weights[name]) for name, value in whole.weights.items())


def test_what_is_kept_is_the_best_else_the_average_else_the_last() -> None:
    module = Small()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    state = TrainState(module, optimizer, WeightAverage(module, 0.5))
    moved(module, 1)
    state.after_step()
    assert state.average is not None
    state.take_kept()
    assert all(torch.equal(value, state.average.weights[name]) for name, value in module.state_dict().items())
    best = moved(module, 2)
    state.mark_best()
    moved(module, 3)
    state.take_kept()
    assert all(torch.equal(value, best[name]) for name, value in module.state_dict().items())
    last, plain = moved(module, 4), TrainState(module, optimizer)
    plain.after_step()
    plain.take_kept()
    assert all(torch.equal(value, last[name]) for name, value in module.state_dict().items())
    assert "average" not in plain.state_dict()
