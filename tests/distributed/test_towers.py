"""Encoders with dropout, adapters and parts that stay, frozen features and tuned gene towers, on several processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stray.cohort.fragments import PatchBlock
from stray.collective import all_sum
from stray.config import (
    CallableConfig,
    ContrastiveConfig,
    ScviConfig,
    TrainableAdaptersConfig,
    TrainableAllConfig,
    TrainableConfig,
    TrainableLastStageConfig,
    TrainableNoneConfig,
)
from stray.data.blocks import Patches
from stray.errors import InputError
from stray.models.adapters import LowRank, train_only
from stray.models.gene_vae import GeneVae
from stray.models.image_encoder import ImageEncoder
from stray.models.towers import TunedTower
from stray.noise import Noise
from stray.stages.contrastive.encoder_checks import check_encoder
from stray.stages.contrastive.frozen_features import FrozenFeatures
from tests.support.encoders_at_hand import FACTORY
from tests.support.gloo import Job, run_on

COUNT = 7  # an odd count: two workers hold four and three rows


def encoder_step(trains: TrainableConfig) -> dict[str, np.ndarray]:
    """Gradients and statistics of one step of an encoder with batch norm, dropout and stochastic depth."""
    torch.manual_seed(0)
    encoder = ImageEncoder(CallableConfig(factory=FACTORY, options={"width": 4, "drop": 0.4}))
    train_only(encoder, trains)
    encoder = encoder.double().train()
    for module in encoder.modules():
        if isinstance(module, LowRank):  # where both factors have a gradient
            torch.nn.init.normal_(module.up)
    patches = torch.rand(COUNT, 3, 32, 32, dtype=torch.float64)
    noise = Noise.of_rank(3, 1, 0, COUNT)
    encoder(patches[noise.rows], noise).sin().sum().backward()
    found = {n: all_sum(p.grad) for n, p in encoder.named_parameters() if p.grad is not None}
    assert found.keys() == {n for n, p in encoder.named_parameters() if p.requires_grad}
    found |= {n: b for n, b in encoder.named_buffers() if b.dtype == torch.float64}
    return {name: value.numpy() for name, value in found.items()}


def gene_step() -> dict[str, np.ndarray]:
    """Gradients of one step of a tuned gene tower."""
    torch.manual_seed(0)
    vae = GeneVae(ScviConfig(n_latent=3, n_hidden=8), n_genes=11, n_batches=2)
    x_NG = torch.poisson(torch.full((COUNT, 11), 3.0)).double()
    tower = TunedTower(vae.encoder, torch.randn(COUNT, 3), 0.1).double().train()
    noise = Noise.of_rank(0, 1, 2, COUNT)
    tower(x_NG[noise.rows], noise).square().sum().backward()
    return {n: all_sum(p.grad).numpy() for n, p in tower.named_parameters() if p.grad is not None}


def features() -> dict[str, np.ndarray]:
    """The features of a frozen encoder as every rank holds them."""
    torch.manual_seed(0)
    encoder = ImageEncoder(CallableConfig(factory=FACTORY, options={"width": 4}))
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    patches = Patches([PatchBlock(np.arange(COUNT), pixels)], np.arange(COUNT))
    config = ContrastiveConfig(trainable=TrainableNoneConfig(cached_views=3))
    held = FrozenFeatures(encoder, patches, config, 0, torch.device("cpu"), half=None)
    return {f"epoch {epoch}": held.gather(np.arange(COUNT), epoch).numpy() for epoch in range(4)}


def refused(factory: str) -> str:
    """What a rank says of an encoder that cannot be trained exactly."""
    encoder = ImageEncoder(CallableConfig(factory=factory))
    patches = Patches([PatchBlock(np.arange(2), np.zeros((2, 16, 16, 3), dtype=np.uint8))], np.arange(2))
    try:
        check_encoder(encoder, patches, torch.device("cpu"))
    except InputError as error:
        return str(error)
    return ""


EXACT: dict[str, Job] = {
    "everything trained": (encoder_step, (TrainableAllConfig(),)),
    "the last stage trained": (encoder_step, (TrainableLastStageConfig(),)),
    "adapters": (encoder_step, (TrainableAdaptersConfig(rank=2),)),
    "a tuned gene tower": (gene_step, ()),
}
JOBS = EXACT | {
    "frozen features": (features, ()),
    "own norm": (refused, ("tests.support.encoders_at_hand:own_norm",)),
    "other weights": (refused, ("tests.support.encoders_at_hand:drawn_elsewhere",)),
}


@pytest.fixture(scope="module")
def on_one() -> dict[str, Any]:
    return {name: found[0] for name, found in run_on(1, JOBS).items()}


@pytest.fixture(scope="module")
def on_two() -> dict[str, list[Any]]:
    return run_on(2, JOBS)


@pytest.mark.parametrize("name", EXACT)
def test_gradients_equal_those_of_one_process_on_the_whole_batch(
    name: str, on_one: dict[str, Any], on_two: dict[str, list[Any]]
) -> None:
    whole = on_one[name]
    assert max(np.abs(value).max() for value in whole.values()) > 1e-3
    for found in on_two[name]:
        assert found.keys() == whole.keys()
        for parameter, value in whole.items():
            np.testing.assert_allclose(found[parameter], value, rtol=1e-10, atol=1e-10, err_msg=parameter)


def test_every_worker_holds_the_frozen_features_of_one(on_one: dict[str, Any], on_two: dict[str, list[Any]]) -> None:
    first, second = on_two["frozen features"]
    for epoch, alone in on_one["frozen features"].items():
        np.testing.assert_array_equal(first[epoch], second[epoch])
        np.testing.assert_allclose(first[epoch], alone, rtol=1e-4, atol=1e-6)


def test_what_workers_would_not_do_alike_stops_all_of_them(
    on_one: dict[str, Any], on_two: dict[str, list[Any]]
) -> None:
    assert on_one["own norm"] == on_one["other weights"] == ""
    told = {"own norm": "each worker would normalise", "other weights": "different weights on different workers"}
    for name, words in told.items():
        first, second = on_two[name]
        assert first == second
        assert words in first
