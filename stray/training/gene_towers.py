"""Inputs of the contrastive stage's gene tower: the gene stage's codes, or counts when the tower is trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stray.config import TunedTowerConfig
from stray.errors import InputError, Problem
from stray.models.gene_vae import GeneVae
from stray.models.towers import TunedTower
from stray.training.blocks import Counts
from stray.training.finite import sections
from stray.training.gene_folder import load_gene_encoder
from stray.training.stages import ImageStage, StageData


def tower_input(stage: ImageStage, data: StageData) -> tuple[Tensor | Counts, TunedTower | None]:
    """Return the gene-tower input for the stage's rows: frozen codes (N, Z), or counts over the panel when the tower is
    tuned; and the tower then.

    Raises InputError when a tower needs a gene stage that has left no trained encoder, or codes that are not finite.
    """
    tower = stage.config.gene_tower
    if not stage.needs_codes:
        return data.counts(stage.gene.panel(), stage.rows), None
    codes_NZ = _codes(stage, data)
    if not isinstance(tower, TunedTowerConfig):
        return codes_NZ, None
    gene = load_gene_encoder(stage.gene.folder.path)
    assert isinstance(gene.model, GeneVae), "a recipe asks for scVI or scANVI, or is refused"
    return data.counts(gene.panel, stage.rows), TunedTower(gene.model.encoder, codes_NZ, tower.rate_share)


def _codes(stage: ImageStage, data: StageData) -> Tensor:
    """Return frozen gene codes (N, Z) of the stage's rows, as the gene stage left them.

    Raises InputError where some are not finite: the tower that standardises them would pass that on to all.
    """
    folder = stage.gene.folder
    held = folder.read_array("rows.npy")
    place = np.searchsorted(held, stage.rows)
    codes_NZ = folder.read_array("codes.npy")[place]
    bad = np.flatnonzero(~np.isfinite(codes_NZ).all(axis=1))
    if len(bad):
        found = sections(bad, lambda places: data.spots(stage.rows[places]))
        what = f"codes of {len(bad)} of {len(codes_NZ)} spots are not finite: {found}"
        remedy = "remove the folder, and train the gene stage with a lower gene.optim.lr"
        raise InputError(Problem(folder.path, what, remedy))
    return torch.from_numpy(codes_NZ)
