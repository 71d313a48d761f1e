"""The contrastive stage: towers, projections, augmentation, training."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from pydantic import Field

from stray.config.batches import BatchesConfig
from stray.config.image import ImageConfig, TorchvisionConfig, TrainableAllConfig, TrainableConfig
from stray.config.losses import LossesConfig
from stray.config.optim import ContrastiveOptimConfig


@dataclass(frozen=True, kw_only=True)
class FrozenTowerConfig:
    """The gene stage's encoder, frozen: codes are computed once."""

    kind: Literal["frozen"] = "frozen"


@dataclass(frozen=True, kw_only=True)
class MlpTowerConfig:
    """A plain MLP on log1p counts of the panel, trained together with the image encoder (the CLIP baseline)."""

    kind: Literal["mlp"] = "mlp"
    n_hidden: Annotated[int, Field(ge=1)] = 128
    """Width of the hidden layers."""
    n_layers: Annotated[int, Field(ge=1)] = 1
    """Hidden layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout after each hidden layer."""


@dataclass(frozen=True, kw_only=True)
class TunedTowerConfig:
    """The gene stage's encoder (scVI or scANVI), trained further together with the image encoder."""

    kind: Literal["tuned"] = "tuned"
    lr_multiplier: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Multiplies the learning rate for it."""


GeneTowerConfig = Annotated[FrozenTowerConfig | MlpTowerConfig | TunedTowerConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """The head that takes a tower's features to the shared space; one a tower."""

    kind: Literal["linear", "mlp", "none"] = "linear"
    """A linear map, or one hidden layer before it, or the towers' features themselves, which must be as many."""
    size: Annotated[int, Field(ge=2)] = 128
    """Dimensions of the shared space; without a head it has those of the towers."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of the patches of a mini-batch, drawn from (seed, epoch, step)."""

    flips: bool = True
    """Mirror each patch with probability one half."""
    rotations: bool = True
    """Turn each patch by 0, 90, 180 or 270 degrees."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Factor drawn from 1 - b to 1 + b."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Factor drawn from 1 - c to 1 + c."""
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Factor drawn from 1 - s to 1 + s."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Shift drawn from -h to h, in turns of the colour circle."""
    crop_area: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest share of the patch's area that a random crop keeps, resized to the whole patch; 1: no crops. What is
    cropped looks larger than it is: a share of 0.64 magnifies by up to 1.25.
    """
    stain_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Factor on the amounts of haematoxylin and of eosin, one each, drawn from 1 - f to 1 + f."""
    stain_shift: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Optical density (decadic) of haematoxylin and of eosin that is added, one each, drawn from -d to d."""
    blur_px: Annotated[float, Field(ge=0)] = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels; drawn from 0 to b."""

    @property
    def acting(self) -> tuple[str, ...]:
        """The settings that change patches."""
        idle = {"crop_area": 1.0}
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != idle.get(f.name, 0))


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """The contrastive stage trains an image encoder to meet the gene codes in one space."""

    image: ImageConfig = field(default_factory=TorchvisionConfig)
    """The image encoder."""
    trainable: TrainableConfig = field(default_factory=TrainableAllConfig)
    """Part of the image encoder that is trained."""
    gene_tower: GeneTowerConfig = field(default_factory=FrozenTowerConfig)
    """Gene tower: codes of the gene stage, its encoder trained further, or an MLP."""
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    """The heads into the shared space."""
    losses: LossesConfig = field(default_factory=LossesConfig)
    """Losses and their weights."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the patches."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Passes over the training spots."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Spots in a global batch, whatever the number of workers."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the paired spots of every training section that does not train, and on which retrieval is watched, such
    as 0.05; nothing is decided by it. 0: all spots train.
    """
    batches: BatchesConfig = field(default_factory=BatchesConfig)
    """Which spots meet in a batch."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Chunks that each worker takes its share of a batch in, one after the other, so that the towers hold the
    activations of one alone. Loss and gradients are those of the whole batch; the towers run forward twice.
    """
    accumulate_batch_norm: Literal["refuse", "per_chunk"] = "refuse"
    """Batch norm by the statistics of the batch cannot be had from chunks: refused, or taken from each chunk by itself
    (the chunk's spots on all workers: then the result does depend on their number).
    """
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Arithmetic of the towers in training; auto: bf16 where the hardware is faster at it (GPUs, CPUs with AMX). fp16,
    for GPUs without bf16, scales the loss, and skips the steps whose gradient overflows.
    """
    compile: bool = False
    """Whether torch.compile fuses the image encoder: a minute or so at the start, faster steps after. Takes a C++
    compiler on a CPU.
    """
    optim: ContrastiveOptimConfig = field(
        default_factory=lambda: ContrastiveOptimConfig(
            lr=1e-3, weight_decay=1e-4, decoupled=True, schedule="cosine", warmup_share=0.1
        )
    )
    """The optimiser."""
