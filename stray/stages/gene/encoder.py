"""Gene encoders: built with initial weights, and loaded from the folder of a finished gene stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter

from stray.cohort.panel import Panel
from stray.config import GeneConfig, GeneModelConfig, LogCountsConfig, PcaConfig, ScanviConfig, ScviConfig
from stray.models.gene_vae import GeneVae
from stray.models.pca import LogCounts, Pca
from stray.models.scanvi import Scanvi
from stray.noise import torch_generator
from stray.stages.results import ResultFolder

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


@dataclass(frozen=True)
class GeneEncoder:
    """Trained gene encoder, and the panel that it takes."""

    model: GeneModel
    """In eval mode."""
    panel: Panel
    config: GeneConfig
    classes: tuple[str, ...]
    """Those that scANVI learned, in the order of its probabilities; empty elsewhere."""
    batches: tuple[str, ...]
    """Those that the decoder knows, in the order of its numbers for them; empty for models without a decoder."""
    facts: dict[str, Any]
    """Facts that the folder holds about itself."""


def load_gene_encoder(path: str) -> GeneEncoder:
    """Load the encoder of a gene stage's folder. Raises InputError when there is none, or it is not whole."""
    folder = ResultFolder(path)
    folder.require("gene", "`stray train` leaves them as OUTPUT/NAME/gene-...")
    config, batches, classes, seed = folder.read_with("config.json", _settings)
    panel = folder.read_with("panel.json", lambda content: Panel.from_json(content.decode()))
    model = build_gene_model(
        config.model, n_genes=len(panel), n_batches=len(batches), n_classes=len(classes), seed=seed
    )
    state = folder.read_weights("weights.pt")
    folder.read_with("weights.pt", lambda _: model.load_state_dict(state))
    return GeneEncoder(model.eval(), panel, config, classes, batches, folder.facts())


def _settings(content: bytes) -> tuple[GeneConfig, tuple[str, ...], tuple[str, ...], int]:
    """Return the settings, batches, classes and seed of config.json."""
    tree = json.loads(content)
    config = TypeAdapter(GeneConfig).validate_python(tree["gene"])
    return config, tuple(tree["batches"]), tuple(tree["classes"]), int(tree["seed"])
