"""The gene stage: panel, model, training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from stray.config.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class PanelConfig:
    """Which genes a model sees; fitted on the fold's training patients only."""

    kind: Literal["hvg", "mean", "all"] = "hvg"
    """Highly variable genes (seurat_v3 over log-variance, patient as batch), highest mean, or all genes."""
    n_genes: Annotated[int, Field(ge=2)] = 1000
    """Size of the panel for `hvg` and `mean`; fewer where the cohort has fewer."""
    min_sections_share: Annotated[float, Field(ge=0, le=1)] = 0.9
    """A gene must have been measured in at least this share of the training sections."""
    exclude: tuple[str, ...] = ()
    """Regular expressions; genes whose symbol matches one from its start are left out (`MT-`, `RP[SL]`)."""


@dataclass(frozen=True, kw_only=True)
class ScviConfig:
    """scVI (Lopez et al. 2018), as in scvi-tools; the encoder never sees the batch."""

    kind: Literal["scvi"] = "scvi"
    likelihood: Literal["nb", "zinb"] = "zinb"
    """Negative binomial, or with extra zeros."""
    n_latent: Annotated[int, Field(ge=1)] = 10
    """Dimensions of the gene code."""
    n_hidden: Annotated[int, Field(ge=1)] = 128
    """Width of the hidden layers."""
    n_layers: Annotated[int, Field(ge=1)] = 1
    """Hidden layers of the encoder, and of the decoder."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout in the encoder."""
    kl_warmup_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the epochs over which the weight of the KL term rises from 0 to `kl_weight`."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the KL term after its warm-up."""


@dataclass(frozen=True, kw_only=True)
class GeneConfig:
    """The gene stage trains a batch-agnostic gene encoder by variational inference."""

    panel: PanelConfig = field(default_factory=PanelConfig)
    """The genes."""
    model: ScviConfig = field(default_factory=ScviConfig)
    """The model."""
    batch_key: Literal["patient", "section"] = "patient"
    """What a batch effect belongs to."""
    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the training spots."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Spots in a global batch, whatever the number of workers."""
    min_count: Annotated[int, Field(ge=0)] = 0
    """Spots with fewer counts over the panel do not train."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training patients' spots, stratified by batch, on which the ELBO is watched."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, eps=0.01, weight_decay=1e-6))
    """The optimiser; scvi-tools' values by default."""
