"""One step of the contrastive stage in float64, in chunks, on this rank of however many there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from stray.collective import all_sum
from stray.config import (
    AugmentConfig,
    ClipLossConfig,
    ExpressionLossConfig,
    GuidedLossConfig,
    LossesConfig,
    MlpTowerConfig,
    SiglipLossConfig,
    SmoothedLossConfig,
)
from stray.likelihood.counts import SparseCounts
from stray.noise import Noise
from stray.stages.contrastive.task import ContrastiveTask, PairedBatch
from tests.support.small_training import PX, image_task

EVERYTHING = AugmentConfig(crop_area=0.5, stain_factor=0.2, stain_shift=0.05, blur_px=1.0)
ALL_LOSSES = LossesConfig(
    clip=ClipLossConfig(weight=0.7),
    smoothed=SmoothedLossConfig(weight=0.5, targets="published"),
    guided=GuidedLossConfig(weight=0.3),
    siglip=SiglipLossConfig(weight=0.2),
    expression=ExpressionLossConfig(weight=2.0),
    chunk=3,
)


def only(**loss: Any) -> LossesConfig:
    """One loss alone."""
    return LossesConfig(**{"clip": ClipLossConfig(weight=0), **loss})


def _frozen() -> nn.Module:
    torch.manual_seed(3)
    norm = FrozenBatchNorm2d(4)
    for value in norm.buffers():
        value.uniform_(0.5, 1.5)
    return norm


NORMS: dict[str, Any] = {
    "frozen batch norm": _frozen,
    "group norm": lambda: nn.GroupNorm(2, 4),
    "layer norm": lambda: nn.LayerNorm([4, PX - 2, PX - 2]),
}
MLP = MlpTowerConfig(n_hidden=7, n_layers=2, dropout=0.4)
CASES: dict[str, dict[str, Any]] = {
    "frozen batch norm, mixture": {"losses": ALL_LOSSES},
    "group norm, clip, mlp": {"gene_tower": MLP},
    "group norm, mixture, mlp": {"gene_tower": MLP, "losses": replace(ALL_LOSSES, expression=ExpressionLossConfig())},
    "layer norm, siglip, mlp": {"gene_tower": MLP, "losses": only(siglip=SiglipLossConfig(weight=1.0))},
    "layer norm, smoothed": {"losses": only(smoothed=SmoothedLossConfig(weight=1.0))},
    "layer norm, guided": {"losses": only(guided=GuidedLossConfig(weight=1.0, unlabelled="negatives"))},
    "frozen batch norm, expression": {"losses": only(expression=ExpressionLossConfig(weight=1.0))},
}


def double_batch(task: ContrastiveTask, step: int, size: int | None = None) -> tuple[PairedBatch, Noise]:
    """This rank's batch of a step, with pictures, codes and counts in float64, and its noise."""
    batch = task.plan.batches(0)[step][:size]
    noise = Noise.of_rank(5, 0, step, len(batch))
    made = task.gather(batch[noise.rows], noise)
    x = None if made.x is None else _double(made.x)
    double = replace(made, patches_nCHW=made.patches_nCHW.double() / 255, genes_nX=made.genes_nX.double(), x=x)
    return double, noise


def _double(x: SparseCounts) -> SparseCounts:
    return replace(x, x_e=x.x_e.double(), total_n=x.total_n.double(), log_factorial_n=x.log_factorial_n.double())


def chunked_step(case: str, chunks: int, size: int | None = None) -> dict[str, np.ndarray]:
    """Loss, gradients and logged sums over all ranks, of a step that takes each rank's rows in `chunks`."""
    norm = NORMS[case.split(",")[0]]()
    config = {"augment": EVERYTHING, **CASES[case]}
    task = image_task(norm, accumulate=chunks, accumulate_batch_norm="per_chunk", **config)
    if "mlp" in case:
        # Batch norm has no statistics in chunks; the tower's other norm stands in for it.
        body: Any = task.module.gene_tower.body
        body.norms = nn.ModuleList(nn.LayerNorm(7) for _ in body.norms)
    if task._expression is not None:
        task._expression.decoder._model.double()
    module = task.module.double().train()
    batch, noise = double_batch(task, 1, size)
    output = task.step(batch, noise)
    output.loss.backward()
    found = {"loss": output.loss, **{f"sum {name}": value for name, value in output.sums.items()}}
    found |= {f"gradient {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {name: all_sum(value.detach().double().clone()).numpy() for name, value in found.items()}
