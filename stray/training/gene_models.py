"""The gene model of a recipe, with its initial weights."""

from __future__ import annotations

import torch

from stray.config import GeneModelConfig, LogCountsConfig, PcaConfig, ScanviConfig, ScviConfig
from stray.models.gene_vae import GeneVae
from stray.models.pca import LogCounts, Pca
from stray.models.scanvi import Scanvi
from stray.noise import torch_generator

GeneModel = GeneVae | Pca | LogCounts
"""Gene encoder: `dim`, and `encode` of counts (n, G) to codes (n, Z)."""


def build_gene_model(config: GeneModelConfig, *, n_genes: int, n_batches: int, n_classes: int, seed: int) -> GeneModel:
    """Build the model; its weights are a function of the seed alone. `n_classes` counts for scANVI."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "gene", "init").initial_seed())
        match config:
            case PcaConfig():
                return Pca(config, n_genes=n_genes)
            case LogCountsConfig():
                return LogCounts(config, n_genes=n_genes)
            case ScanviConfig():
                return Scanvi(config, n_genes=n_genes, n_batches=n_batches, n_classes=n_classes)
            case ScviConfig():
                return GeneVae(config, n_genes=n_genes, n_batches=n_batches)


def without_classes(config: ScanviConfig) -> ScviConfig:
    """Return the scVI that a scANVI of these settings holds."""
    shared = {name: getattr(config, name) for name in ScviConfig.__dataclass_fields__ if name != "kind"}
    return ScviConfig(**shared)
