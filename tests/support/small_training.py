"""Both stages as tasks of the loop on random data, so small that an epoch takes a tenth of a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stray.cohort.fragments import CountBlock, PatchBlock, compact
from stray.config import ContrastiveConfig, GeneConfig, ProjectionConfig, ScviConfig
from stray.data.blocks import Counts, Patches
from stray.models.frozen_decoder import FrozenDecoder
from stray.models.gene_vae import GeneVae
from stray.models.norm import globalise
from stray.stages.contrastive.gene_inputs import ExpressionData, GeneInput
from stray.stages.contrastive.task import ContrastiveTask, PatchInput
from stray.stages.gene.task import GeneTask

CPU = torch.device("cpu")
SPOTS, GENES, PX = 60, 12, 8


def net(norm: nn.Module, width: int = 4) -> nn.Sequential:
    """A convolution, a norm over its `width` channels, and a pool."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 512)
    )


def counts() -> Counts:
    """Of two kinds of tissue in three patients."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(size=(2, GENES)))[np.arange(SPOTS) % 2] * np.exp(rng.normal(size=(3, GENES)))[patient()]
    return Counts([CountBlock(np.arange(SPOTS), compact(sp.csr_matrix(rng.poisson(2 * rate))))], np.arange(SPOTS))


def patient() -> np.ndarray:
    """The patient of each spot, by number."""
    return np.arange(SPOTS) // 2 % 3


def label() -> np.ndarray:
    """The class of each spot; a third has none."""
    return np.where(np.arange(SPOTS) % 3 == 0, "", np.array(["fat", "tumour"])[np.arange(SPOTS) % 2])


def gene_task(**changes: Any) -> GeneTask:
    """scVI; `changes` of the gene stage's settings."""
    config = GeneConfig(
        **{
            "model": ScviConfig(n_latent=3, n_hidden=8),
            "epochs": 4,
            "batch_size": 10,
            "validation_share": 0.2,
            **changes,
        }
    )
    return GeneTask(config, counts(), np.array(["A", "B", "C"])[patient()], label(), seed=5, device=CPU)


def _expression() -> ExpressionData:
    """The counts with a decoder of random weights."""
    torch.manual_seed(4)
    decoder = GeneVae(ScviConfig(n_latent=3, n_hidden=8), n_genes=GENES, n_batches=3)
    return ExpressionData(FrozenDecoder(decoder), counts(), torch.from_numpy(patient()))


def image_task(norm: nn.Module | None = None, **changes: Any) -> ContrastiveTask:
    """A small net with `norm` (batch norm where it is not given) against codes or, with an MLP as gene tower, counts;
    `changes` of the contrastive stage's settings.
    """
    config = ContrastiveConfig(
        **{"epochs": 4, "batch_size": 10, "projection": ProjectionConfig(kind="linear", size=6), **changes}
    )
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (SPOTS, PX, PX, 3), dtype=np.uint8)
    patches = Patches([PatchBlock(np.arange(SPOTS), pixels)], np.arange(SPOTS))
    genes: Tensor | Counts = (
        counts() if config.gene_tower.kind == "mlp" else torch.from_numpy(rng.normal(size=(SPOTS, 3))).float()
    )
    task = ContrastiveTask(
        config,
        PatchInput(patches, label(), patient()),
        GeneInput(genes, expression=_expression() if config.losses.expression.weight > 0 else None),
        seed=5,
        device=CPU,
    )
    torch.manual_seed(2)
    small: Any = net(nn.BatchNorm2d(4) if norm is None else norm)
    task.module.encoder.backbone = globalise(small)
    if config.compile:
        small.compile()
    return task
