"""The two towers of the contrastive stage and their heads into the shared space."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stray.config import ContrastiveConfig, MlpTowerConfig, ProjectionConfig
from stray.models.image_encoder import ImageEncoder
from stray.models.mlp import Mlp
from stray.models.norm import GlobalBatchNorm
from stray.models.scales import LossScales
from stray.noise import Noise


def projection(config: ProjectionConfig, n_in: int) -> nn.Module:
    """The head from `n_in` features to the shared space."""
    if config.kind == "linear":
        return nn.Linear(n_in, config.size)
    return nn.Sequential(nn.Linear(n_in, n_in), GlobalBatchNorm(n_in), nn.ReLU(), nn.Linear(n_in, config.size))


class FrozenCodes(nn.Module):
    """The gene tower whose codes were computed once: standardises them, so that every dimension counts alike.

    Mean and scale are those of the training spots' codes; they are buffers and travel with the weights.
    """

    mean_Z: Tensor
    scale_Z: Tensor

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.dim = n_latent
        self.register_buffer("mean_Z", torch.zeros(n_latent))
        self.register_buffer("scale_Z", torch.ones(n_latent))

    def fit(self, codes_NZ: Tensor) -> None:
        """Take mean and scale from the training spots' codes (N, Z)."""
        self.mean_Z.copy_(codes_NZ.mean(dim=0))
        self.scale_Z.copy_(codes_NZ.std(dim=0).clamp_min(1e-6))

    def forward(self, codes_nZ: Tensor, noise: Noise | None = None) -> Tensor:
        return (codes_nZ - self.mean_Z) / self.scale_Z


class MlpTower(nn.Module):
    """An MLP on log1p counts of the panel, trained together with the image encoder."""

    def __init__(self, config: MlpTowerConfig, n_genes: int) -> None:
        super().__init__()
        self.dim = config.n_hidden
        self.body = Mlp(n_genes, config.n_hidden, config.n_layers, dropout=config.dropout)

    def forward(self, counts_nG: Tensor, noise: Noise | None = None) -> Tensor:
        return self.body(torch.log1p(counts_nG), noise=noise, site="gene_tower")


class Coded(NamedTuple):
    """What the towers make of a batch."""

    image_nD: Tensor
    """Codes of the images in the shared space, of length one."""
    gene_nD: Tensor
    """Codes of the genes in the shared space, of length one."""
    z_nZ: Tensor | None
    """Codes of the images in the gene decoder's space; None where no loss decodes."""


class ContrastiveModel(nn.Module):
    """Image encoder, gene tower, their heads, and the scalars of the losses."""

    def __init__(
        self, config: ContrastiveConfig, gene_tower: FrozenCodes | MlpTower, n_latent: int | None = None
    ) -> None:
        """`n_latent` is the size of the codes that the gene decoder takes, where a loss decodes."""
        super().__init__()
        self.image_encoder = ImageEncoder(config.image)
        self.gene_tower = gene_tower
        self.image_head = projection(config.projection, self.image_encoder.dim)
        self.gene_head = projection(config.projection, gene_tower.dim)
        self.scales = LossScales(config.losses)
        self.expression_head = None if n_latent is None else nn.Linear(self.image_encoder.dim, n_latent)

    def forward(self, patches_nCHW: Tensor, genes_nX: Tensor, noise: Noise | None = None) -> Coded:
        """Codes of the images and of the genes."""
        features_nF = self.image_encoder(patches_nCHW)
        image_nD = self.image_head(features_nF)
        gene_nD = self.gene_head(self.gene_tower(genes_nX, noise))
        image_nD, gene_nD = _full(image_nD), _full(gene_nD)
        z_nZ = None
        if self.expression_head is not None:
            # A likelihood of counts needs more digits than bf16 has.
            with torch.autocast(features_nF.device.type, enabled=False):
                z_nZ = self.expression_head(_full(features_nF))
        return Coded(F.normalize(image_nD, dim=-1), F.normalize(gene_nD, dim=-1), z_nZ)


def _full(x: Tensor) -> Tensor:
    """Half precision ends here."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
