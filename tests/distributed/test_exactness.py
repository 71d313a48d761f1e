"""What several gloo processes compute equals what one process computes on the whole batch, in value and in gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stray.collective import all_sum, gather_rows, rank_rows, world_size
from stray.config import (
    AugmentConfig,
    ContrastiveConfig,
    GeneConfig,
    MlpTowerConfig,
    ProjectionConfig,
    ScanviConfig,
    ScviConfig,
)
from stray.losses.gather import gather
from stray.losses.mixture import mixture
from stray.models.gene_vae import GeneVae
from stray.models.image_encoder import ImageEncoder
from stray.models.norm import globalise
from stray.models.scanvi import Scanvi
from stray.models.towers import ContrastiveModel, MlpTower
from stray.noise import Noise
from stray.stages.contrastive.augment import augment
from tests.support.gloo import Job, run_on
from tests.support.losses_at_hand import losses

COUNT = 7  # an odd count: two workers hold four and three rows


def gene_step() -> dict[str, np.ndarray]:
    """Gradients of one step of scVI with dropout, latent noise and batch norm, and the running statistics after it."""
    torch.manual_seed(0)
    model = GeneVae(ScviConfig(n_latent=3, n_hidden=8, n_layers=2), n_genes=11, n_batches=2).double().train()
    x_NG = torch.poisson(torch.full((COUNT, 11), 3.0)).double()
    batch_N = torch.arange(COUNT) % 2
    noise = Noise.of_rank(0, 1, 2, COUNT)
    terms = model.loss(x_NG[noise.rows], batch_N[noise.rows], noise)
    (terms.reconstruction_n.sum() + 0.3 * terms.kl_n.sum()).div(COUNT).backward()
    found = {n: all_sum(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    found |= {n: b for n, b in model.named_buffers() if b.dtype == torch.float64}
    return {name: value.numpy() for name, value in found.items()}


def scanvi_step() -> dict[str, np.ndarray]:
    """Gradients of one step of scANVI with a learned library and a labelled batch that leaves ranks without a spot."""
    torch.manual_seed(0)
    config = ScanviConfig(n_latent=3, n_hidden=8, library="learned", dispersion="gene-batch")
    model = Scanvi(config, n_genes=11, n_batches=2, n_classes=3).double().train()
    x_NG = torch.poisson(torch.full((COUNT, 11), 3.0)).double()
    batch_N, class_M = torch.arange(COUNT) % 2, torch.tensor([2, 0, 1])
    noise, labelled = Noise.of_rank(0, 1, 2, COUNT), Noise.of_rank(0, 1, 2, len(class_M))
    loss = model.loss(x_NG[noise.rows], batch_N[noise.rows], noise).weighted(0.3).sum() / COUNT
    entropy_m, _ = model.cross_entropy(x_NG[: len(class_M)][labelled.rows], class_M[labelled.rows], labelled)
    (loss + 50 * entropy_m.sum() / len(class_M)).backward()
    found = {n: all_sum(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    found |= {n: b for n, b in model.named_buffers() if b.dtype == torch.float64}
    return {name: value.numpy() for name, value in found.items()}


def convolution_step() -> dict[str, np.ndarray]:
    """A small convolutional net with batch norm in train mode, over an augmented batch."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    net = globalise(net).double().train()
    patches = torch.randint(0, 256, (COUNT, 3, 8, 8), dtype=torch.uint8)
    noise = Noise.of_rank(3, 1, 0, COUNT)
    everything = AugmentConfig(crop_area=0.5, stain_factor=0.2, stain_shift=0.05, blur_px=1.0)
    x = augment(patches[noise.rows], everything, noise).double()
    net(x).square().sum().backward()
    found = {n: all_sum(p.grad) for n, p in net.named_parameters() if p.grad is not None}
    found |= {n: b for n, b in net.named_buffers() if b.dtype == torch.float64}
    return {name: value.numpy() for name, value in found.items()}


def resnet_step() -> dict[str, np.ndarray]:
    """Gradients of a step of both towers: ResNet-18 in train mode on augmented patches, an MLP with dropout on counts,
    heads with batch norm, and all losses between codes; the last workers have no labelled spot.
    """
    torch.manual_seed(0)
    between = losses(clip=0.7, smoothed=0.5, guided=0.3, siglip=0.2)
    config = ContrastiveConfig(
        gene_tower=MlpTowerConfig(n_hidden=8), projection=ProjectionConfig(kind="mlp", size=6), losses=between
    )
    model = (
        ContrastiveModel(config, ImageEncoder(config.image), MlpTower(MlpTowerConfig(n_hidden=8), 11)).double().train()
    )
    patches = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8)
    x_NG, class_N = torch.poisson(torch.full((COUNT, 11), 3.0)).double(), torch.tensor([1, 0] + [-1] * (COUNT - 2))
    noise = Noise.of_rank(3, 1, 0, COUNT)
    features = model.encoder(augment(patches[noise.rows], AugmentConfig(), noise).double() / 255)
    image_nD = F.normalize(model.image_head(features), dim=-1)
    gene_nD = F.normalize(model.gene_head(model.gene_tower(x_NG[noise.rows], noise)), dim=-1)
    codes = gather(image_nD, gene_nD, COUNT, class_N[noise.rows])
    mixed = mixture(between, codes, model.scales(), model.scales.siglip_bias)
    mixed.loss.backward()
    found = {n: all_sum(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    assert len(found) == len(list(model.parameters()))
    found |= {n: b for n, b in model.named_buffers() if b.dtype == torch.float64}
    found["loss"] = all_sum(mixed.loss.detach())
    # Eleven million numbers on every rank: their length and two hundred of each tensor say whether they are the same.
    return {name: torch.cat([value.norm()[None], _few(value)]).numpy() for name, value in found.items()}


def _few(value: torch.Tensor, most: int = 200) -> torch.Tensor:
    return value.flatten()[:: max(1, value.numel() // most)]


def gathered() -> tuple[int, np.ndarray]:
    local = torch.arange(COUNT, dtype=torch.float64)[rank_rows(COUNT)].reshape(-1, 1)
    return world_size(), gather_rows(local, COUNT).numpy()


JOBS: dict[str, Job] = {
    "scVI with dropout, latent noise and batch norm": (gene_step, ()),
    "scANVI with a learned library and few labelled spots": (scanvi_step, ()),
    "augmented convolutions with batch norm in train mode": (convolution_step, ()),
    "ResNet-18 in train mode against an MLP on counts": (resnet_step, ()),
    "gather": (gathered, ()),
}


@pytest.fixture(scope="module")
def on_one() -> dict[str, Any]:
    return {name: found[0] for name, found in run_on(1, JOBS).items()}


@pytest.fixture(scope="module", params=[2, 4], ids=["two workers", "four workers"])
def on_many(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    return run_on(request.param, JOBS)


@pytest.mark.parametrize("name", [name for name in JOBS if name != "gather"])
def test_gradients_equal_those_of_one_process_on_the_whole_batch(
    name: str, on_one: dict[str, Any], on_many: dict[str, list[Any]]
) -> None:
    whole = on_one[name]
    assert max(np.abs(value).max() for value in whole.values()) > 1e-3
    for found in on_many[name]:
        assert found.keys() == whole.keys()
        for parameter, value in whole.items():
            # A small entry is the sum of large ones of both signs, and is as exact as those are.
            atol = 1e-10 * max(1.0, np.abs(value).max())
            np.testing.assert_allclose(found[parameter], value, rtol=1e-10, atol=atol, err_msg=parameter)


def test_gathered_rows_stand_in_the_order_of_the_global_batch(on_many: dict[str, list[Any]]) -> None:
    for size, rows in on_many["gather"]:
        assert size == len(on_many["gather"])
        np.testing.assert_array_equal(rows.ravel(), np.arange(COUNT))


def test_gather_refuses_rows_that_are_not_the_ranks_share() -> None:
    with pytest.raises(ValueError, match="its share of 7 is 7"):
        gather_rows(torch.zeros(3, 2), 7)


def test_default_gene_config_has_the_values_of_scvi_tools() -> None:
    config = GeneConfig()
    assert (config.optim.lr, config.optim.eps, config.optim.weight_decay) == (1e-3, 0.01, 1e-6)
    assert isinstance(config.model, ScviConfig)
    assert (config.model.n_hidden, config.model.n_latent, config.model.n_layers, config.batch_size) == (128, 10, 1, 128)
