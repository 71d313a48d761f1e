"""A global batch of codes with everything that any loss needs, small and in float64; a rank takes its rows of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stray.collective import all_sum, rank_rows
from stray.config import (
    ClipLossConfig,
    ExpressionLossConfig,
    GuidedLossConfig,
    LossesConfig,
    ScviConfig,
    SiglipLossConfig,
    SmoothedLossConfig,
)
from stray.likelihood.counts import SparseCounts
from stray.losses.expression import Explained, expression_loss
from stray.losses.gather import gather
from stray.losses.mixture import Mixed, mixture
from stray.models.frozen_decoder import FrozenDecoder
from stray.models.gene_vae import GeneVae
from stray.models.scales import LossScales

DIM, GENES = 5, 4
OF_WEIGHT: dict[str, Any] = {
    "clip": ClipLossConfig,
    "smoothed": SmoothedLossConfig,
    "guided": GuidedLossConfig,
    "siglip": SiglipLossConfig,
    "expression": ExpressionLossConfig,
}


def losses(chunk: int | None = None, **weights: float | Any) -> LossesConfig:
    """The named losses alone, each with a weight or with all its settings; clip is left out unless it is named."""
    made = {
        name: OF_WEIGHT[name](weight=given) if isinstance(given, int | float) else given
        for name, given in weights.items()
    }
    return LossesConfig(**{"clip": ClipLossConfig(weight=0), "chunk": chunk, **made})


class Batch(nn.Module):
    """`count` spots of one global batch, the two towers, and the scalars of the losses.

    The first half of the spots has a class, as the sections of a labelled patient may come together in a batch.
    """

    def __init__(self, config: LossesConfig, count: int, labelled: int | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.config, self.count = config, count
        self.pictures_N6, self.genes_N4 = (torch.randn(count, d, generator=generator).double() for d in (6, 4))
        labelled = (count + 1) // 2 if labelled is None else labelled
        self.class_N = torch.where(torch.arange(count) < labelled, torch.arange(count) % 2, -1)
        torch.manual_seed(1)
        self.image_tower, self.gene_tower = nn.Linear(6, DIM), nn.Linear(4, DIM)
        self.head = None
        if config.expression.weight > 0:
            self.head = nn.Linear(DIM, 2)
            self.decoder = FrozenDecoder(
                GeneVae(ScviConfig(n_latent=2, n_hidden=3), n_genes=GENES, n_batches=2).double()
            )
            self.x_NG = torch.poisson(torch.full((count, GENES), 2.0), generator=generator).double()
            self.chance = self.explain(slice(0, count), torch.zeros(count, 2).double())
        self.scales = LossScales(config)
        self.double()

    def codes(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Codes of length one of the images and of the genes."""
        image_nD, gene_nD = self.image_tower(self.pictures_N6[rows]), self.gene_tower(self.genes_N4[rows])
        return F.normalize(image_nD, dim=-1), F.normalize(gene_nD, dim=-1)

    def forward(self) -> Mixed:
        """This rank's shares."""
        rows = rank_rows(self.count)
        codes = gather(*self.codes(rows), self.count, self.class_N[rows])
        explained = None
        if self.head is not None:
            explained = self.explain(rows, self.head(self.image_tower(self.pictures_N6[rows])))
            explained = replace(explained, chance=float(expression_loss(self.chance, self.count)))
        return mixture(self.config, codes, self.scales(), self.scales.siglip_bias, explained)

    def explain(self, rows: slice, z_nZ: Tensor) -> Explained:
        """What the decoder makes of the codes `z_nZ` of these spots, of two patients in turn."""
        x = SparseCounts.of(self.x_NG[rows])
        return Explained(x, *self.decoder(z_nZ, x, torch.arange(self.count)[rows] % 2))


def found(batch: Batch) -> dict[str, Any]:
    """Every number of the mixture and every gradient, summed over ranks, by name; a missing gradient is None."""
    mixed = batch()
    mixed.loss.backward()
    sums = {"loss": mixed.loss}
    for kind in ("terms", "chances", "health"):
        sums |= {f"{kind} {name}": value for name, value in getattr(mixed, kind).items()}
    sums |= {f"gradient {name}": p.grad for name, p in batch.named_parameters() if p.requires_grad}
    return {name: all_sum(value.detach()).numpy() for name, value in sums.items()}


ALL: dict[str, dict[str, Any]] = {
    "clip": {"clip": 1.0},
    "smoothed": {"smoothed": 1.0},
    "smoothed as published": {"smoothed": SmoothedLossConfig(weight=1.0, targets="published")},
    "guided": {"guided": 1.0},
    "guided, unlabelled spots as negatives": {"guided": GuidedLossConfig(weight=1.0, unlabelled="negatives")},
    "siglip": {"siglip": 1.0},
    "expression": {"expression": 1.0},
    "mixture": {"clip": 0.7, "smoothed": 0.5, "guided": 0.3, "siglip": 0.2, "expression": 2.0},
}
"""Every loss, and every way of computing it, by a name for test ids."""
