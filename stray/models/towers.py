"""The two towers of the contrastive stage and their heads into the shared space."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stray.config import ContrastiveConfig, ImageConfig, MlpTowerConfig, ProjectionConfig
from stray.errors import InputError, Problem
from stray.models.adapters import fold, train_only
from stray.models.backbones import restored
from stray.models.image_encoder import ImageEncoder
from stray.models.mlp import Gaussian, Mlp
from stray.models.norm import GlobalBatchNorm
from stray.models.scales import LossScales
from stray.noise import Noise


def projection(config: ProjectionConfig, n_in: int) -> nn.Module:
    """Return the head from `n_in` features to the shared space."""
    if config.kind == "none":
        return nn.Identity()
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


class TunedTower(nn.Module):
    """The gene stage's encoder, trained further: the mean of q(z | x), standardised like the frozen codes.

    Mean and scale are those of the codes that the gene stage left, and stay: training starts where `FrozenCodes` is.
    """

    def __init__(self, encoder: Gaussian, codes_NZ: Tensor, lr_multiplier: float) -> None:
        """Take `encoder` over; `codes_NZ` are its codes of the training spots, `lr_multiplier` multiplies its learning
        rate.
        """
        super().__init__()
        self.lr_multiplier = lr_multiplier
        self.encoder = encoder.requires_grad_(True)
        self.encoder.log_variance.requires_grad_(False)  # no part of the code
        self.standardise = FrozenCodes(codes_NZ.shape[1])
        self.standardise.fit(codes_NZ)
        self.dim = self.standardise.dim

    def forward(self, counts_nG: Tensor, noise: Noise | None = None) -> Tensor:
        return self.standardise(self.encoder(torch.log1p(counts_nG), noise=noise, site="gene_tower")[0])


GeneTower = FrozenCodes | MlpTower | TunedTower


class Coded(NamedTuple):
    """Outputs of the towers for a mini-batch."""

    image_nD: Tensor
    """Codes of the images in the shared space, of length one."""
    gene_nD: Tensor
    """Codes of the genes in the shared space, of length one."""
    z_nZ: Tensor | None
    """Codes of the images in the gene decoder's space; None where no loss decodes."""


class ProjectedEncoder(nn.Module):
    """An image encoder with its head: from uint8 patches to codes of length one in the shared space."""

    def __init__(self, encoder: ImageEncoder, head: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder, self.head, self.dim = encoder, head, dim

    def forward(self, patches_nCHW: Tensor) -> Tensor:
        """Return codes (n, dim) of patches (n, 3, H, W), uint8 or floats in [0, 1]."""
        return F.normalize(self.head(self.encoder(patches_nCHW)).float(), dim=-1)


ImageCoder = ImageEncoder | ProjectedEncoder
"""Encoder of pictures that a stage leaves: `dim`, and from patches to features."""


def image_coder(image: ImageConfig, projection_config: ProjectionConfig | None) -> ImageCoder:
    """Return an image encoder, followed by its projection head where one is named, for weights that a folder of stray
    holds.

    Raises InputError as `ImageEncoder` does.
    """
    encoder = ImageEncoder(restored(image))
    if projection_config is None:
        return encoder
    return ProjectedEncoder(encoder, projection(projection_config, encoder.dim), projection_config.size)


def kept_projection(config: ContrastiveConfig) -> ProjectionConfig | None:
    """Return the head that stays with the image encoder after training: where nothing else was trained."""
    return config.projection if config.trainable.kind == "none" else None


class ContrastiveModel(nn.Module):
    """Image encoder, gene tower, their heads, and the scalars of the losses."""

    def __init__(
        self,
        config: ContrastiveConfig,
        encoder: ImageEncoder,
        gene_tower: GeneTower,
        n_latent: int | None = None,
    ) -> None:
        """`n_latent` is the size of the codes that the gene decoder takes, where a loss decodes.

        Raises InputError when there are no heads and the towers' features are not as many.
        """
        super().__init__()
        if config.projection.kind == "none" and encoder.dim != gene_tower.dim:
            what = f"the image encoder has {encoder.dim} features, the gene tower {gene_tower.dim}: they share no space"
            remedy = "take a linear or mlp head, or a gene tower of that size (n_hidden of an mlp, gene.model.n_latent)"
            raise InputError(Problem("contrastive.projection.kind", what, remedy))
        self._config = config
        # In a tuple, and so neither in checkpoints nor in averages of weights: it never changes.
        self._frozen: tuple[ImageEncoder, ...] = (encoder,) if config.trainable.kind == "none" else ()
        self.image_encoder = None if self._frozen else encoder
        self.gene_tower = gene_tower
        self.image_head = projection(config.projection, encoder.dim)
        self.gene_head = projection(config.projection, gene_tower.dim)
        self.scales = LossScales(config.losses)
        self.expression_head = None if n_latent is None else nn.Linear(encoder.dim, n_latent)
        train_only(encoder, config.trainable)

    @property
    def encoder(self) -> ImageEncoder:
        """The image encoder, in the module or frozen beside it."""
        return self._frozen[0] if self.image_encoder is None else self.image_encoder

    def coder(self) -> ImageCoder:
        """Return the encoder that is kept when training has ended; adapters are folded into the weights."""
        fold(self.encoder)
        return self.unfolded_coder()

    def unfolded_coder(self) -> ImageCoder:
        """Return the encoder that `coder` would return now, sharing the weights that train, with adapters as they
        are.
        """
        if self.image_encoder is not None:
            return self.image_encoder
        return ProjectedEncoder(self.encoder, self.image_head, self._config.projection.size)

    def forward(self, images_nX: Tensor, genes_nX: Tensor, noise: Noise | None = None) -> Coded:
        """Return codes of the images and of the genes. `images_nX` are patches (n, 3, H, W), or the features (n, F) of
        a frozen encoder.
        """
        features_nF = images_nX if self.image_encoder is None else self.image_encoder(images_nX, noise)
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
    """Return `x` in float32: half precision ends here."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
