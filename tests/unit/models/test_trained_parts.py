"""What of an image encoder is trained: all, the last stage, adapters, nothing."""

from __future__ import annotations

import pytest
import torch

from stray.config import (
    CallableConfig,
    ImageConfig,
    TrainableAdaptersConfig,
    TrainableAllConfig,
    TrainableConfig,
    TrainableLastStageConfig,
    TrainableNoneConfig,
)
from stray.models.adapters import LowRank, fold, train_only
from stray.models.image_encoder import ImageEncoder
from tests.support.encoders_at_hand import FACTORY, noise, patches, seeded

NETWORKS: dict[str, ImageConfig] = {
    "callable": CallableConfig(factory=FACTORY, options={"drop": 0.3}),
    "attention": CallableConfig(factory="tests.support.encoders_at_hand:tiny_vit", size_px=32),
}
TRAINS: dict[str, TrainableConfig] = {
    "all": TrainableAllConfig(),
    "last_stage": TrainableLastStageConfig(),
    "adapters": TrainableAdaptersConfig(rank=2, alpha=4),
    "nothing": TrainableNoneConfig(),
}


def trained(encoder: ImageEncoder) -> set[str]:
    return {name for name, p in encoder.named_parameters() if p.requires_grad}


def stepped(encoder: ImageEncoder) -> dict[str, torch.Tensor]:
    """The state after some steps of training, batch norm included."""
    encoder.train()
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        encoder(patches(), noise(step=step)).sin().sum().backward()
        optimizer.step()
    return encoder.state_dict()


@pytest.mark.parametrize("kind", ["all", "last_stage", "adapters"])
def test_only_what_is_trained_moves_and_statistics_below_it_stay(kind: str) -> None:
    encoder = seeded(NETWORKS["callable"])
    train_only(encoder, TRAINS[kind])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    after = stepped(encoder)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    if kind == "adapters":
        assert trained(encoder) == {n for n in before if n.endswith((".up", ".down"))}
        assert len(trained(encoder)) == 2 * 9
        assert moved == trained(encoder)
    elif kind == "last_stage":
        assert moved == {name for name in before if name.startswith("backbone.blocks.3.")}
        assert any("running_mean" in name for name in moved)
    else:
        assert moved == before.keys()


def test_a_frozen_encoder_trains_nothing_and_codes_alike_in_training() -> None:
    encoder = seeded(NETWORKS["callable"])
    expected = encoder.eval()(patches())
    train_only(encoder, TRAINS["nothing"])
    assert not trained(encoder)
    assert torch.equal(encoder.train()(patches(), noise()), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_adapters_start_at_the_untouched_encoder_and_fold_into_its_weights(name: str) -> None:
    encoder = seeded(NETWORKS[name]).eval()
    plain = {key: value.clone() for key, value in encoder.state_dict().items()}
    expected = encoder(patches())
    train_only(encoder, TRAINS["adapters"])
    assert torch.equal(encoder(patches()), expected)
    assert torch.equal(encoder.train()(patches(), noise()), expected)
    stepped(encoder)
    with torch.no_grad():
        moved = encoder.eval()(patches())
        assert not torch.allclose(moved, expected)
        fold(encoder)
        torch.testing.assert_close(encoder(patches()), moved)
    assert encoder.state_dict().keys() == plain.keys()
    changes = {key: value - plain[key] for key, value in encoder.state_dict().items() if value.dim() > 1}
    changed = {key: change for key, change in changes.items() if change.abs().max() > 0}
    # Tokens and positions are no layers.
    assert changes.keys() - changed.keys() <= {"backbone.class_token", "backbone.encoder.pos_embedding"}
    for key, change in changed.items():
        assert torch.linalg.matrix_rank(change.flatten(1), rtol=1e-3) <= 2, key
    again = seeded(NETWORKS[name], seed=1)
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again.eval()(patches()), encoder(patches()))


def test_an_adapter_adds_its_factors_times_alpha_over_rank() -> None:
    weight = torch.randn(6, 3, 2, 2)
    adapter = LowRank(TrainableAdaptersConfig(rank=4, alpha=12), weight)
    assert (adapter.up.shape, adapter.down.shape) == ((6, 4), (4, 12))
    torch.nn.init.normal_(adapter.up)
    change = torch.einsum("or,rk->ok", adapter.up, adapter.down).view(6, 3, 2, 2)
    torch.testing.assert_close(adapter(weight), weight + 3 * change)
    assert LowRank(TrainableAdaptersConfig(rank=9), weight).up.shape == (6, 6), "no more than the weight has"


def test_adapters_of_attention_reach_queries_keys_values_and_output() -> None:
    encoder = seeded(NETWORKS["attention"])
    train_only(encoder, TRAINS["adapters"])
    stepped(encoder)
    attention = "backbone.encoder.layers.encoder_layer_0.self_attention"
    for name in ("parametrizations.in_proj_weight.0.up", "out_proj.parametrizations.weight.0.up"):
        assert encoder.get_parameter(f"{attention}.{name}").abs().max() > 0, name
