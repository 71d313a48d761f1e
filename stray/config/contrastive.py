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
    """Projection head from a tower's features to the shared space; one per tower."""

    kind: Literal["linear", "mlp", "none"] = "linear"
    """linear: a linear map. mlp: a hidden layer and a linear map. none: no head; both towers need equal dimensions."""
    size: Annotated[int, Field(ge=2)] = 128
    """Dimensions of the shared space; without a head, those of the towers."""


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
    """Smallest share of the patch's area that a random crop keeps, resized to the whole patch; 1: no crops. A
    crop magnifies the tissue: 0.64 by up to 1.25.
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
    """Share of the paired spots of every training section that is held out to monitor retrieval, such as 0.05. No
    decision depends on it. 0: all spots train.
    """
    batches: BatchesConfig = field(default_factory=BatchesConfig)
    """Sampling of mini-batches."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Chunks into which each worker splits its part of a batch (GradCache), so that only one chunk's activations are in
    memory. Loss and gradients equal those of the whole batch; the towers run forward twice.
    """
    accumulate_batch_norm: Literal["refuse", "per_chunk"] = "refuse"
    """Chunks do not know the batch statistics of batch norm. refuse: an error. per_chunk: normalise each chunk by its
    own statistics over all workers; the result then depends on the number of workers.
    """
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Autocast dtype of the towers. auto: bf16 where the hardware multiplies it faster (GPUs, CPUs with AMX). fp16 is
    for GPUs without bf16: the loss is scaled, and steps whose gradient overflows are skipped.
    """
    compile: bool = False
    """Whether to compile the image encoder with torch.compile: about a minute at the start, faster steps afterwards. On
    a CPU it needs a C++ compiler.
    """
    optim: ContrastiveOptimConfig = field(
        default_factory=lambda: ContrastiveOptimConfig(
            lr=1e-3, weight_decay=1e-4, decoupled=True, schedule="cosine", warmup_share=0.1
        )
    )
    """The optimiser."""
