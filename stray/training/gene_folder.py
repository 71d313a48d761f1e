"""A trained gene encoder as its stage left it: a folder that codes any section's counts. Loaded without Ray."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from stray.cohort.panel import Panel
from stray.config import GeneConfig
from stray.training.gene_models import GeneModel, build_gene_model
from stray.training.results import ResultFolder


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
