"""Gene side of the contrastive stage: codes or counts for the tower, counts and decoder for the expression loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stray.config import TunedTowerConfig
from stray.data.blocks import Counts
from stray.data.source import StageData
from stray.errors import InputError, Problem
from stray.likelihood.counts import SparseCounts
from stray.losses.expression import Explained, expression_loss
from stray.models.frozen_decoder import FrozenDecoder
from stray.models.gene_vae import GeneVae
from stray.models.towers import TunedTower
from stray.stages.faults import sections
from stray.stages.gene.encoder import load_gene_encoder
from stray.stages.spec import ImageStage

CHANCE_SPOTS = 1024
"""Spots, evenly spaced among those of training, over which the chance level is taken."""


def tower_input(stage: ImageStage, data: StageData) -> tuple[Tensor | Counts, TunedTower | None]:
    """Return the gene-tower input for the stage's rows: frozen codes (N, Z), or counts over the panel when the tower is
    tuned; and the tower then.

    Raises InputError when a tower needs a gene stage that has left no trained encoder, or codes that are not finite.
    """
    tower = stage.config.gene_tower
    if not stage.inputs:
        return data.counts(stage.gene.panel(), stage.rows), None
    codes_NZ = _codes(stage, data)
    if not isinstance(tower, TunedTowerConfig):
        return codes_NZ, None
    gene = load_gene_encoder(stage.gene.folder.path)
    assert isinstance(gene.model, GeneVae), "a recipe asks for scVI or scANVI, or is refused"
    return data.counts(gene.panel, stage.rows), TunedTower(gene.model.encoder, codes_NZ, tower.lr_multiplier)


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


@dataclass(frozen=True)
class ExpressionData:
    """The counts over the gene stage's panel of the training spots, and what decodes them."""

    decoder: FrozenDecoder
    counts: Counts
    batch_N: Tensor
    """The batch (patient) of each spot, as the decoder numbers them."""

    def gather(self, positions: np.ndarray) -> tuple[SparseCounts, Tensor]:
        """Gather counts and batches (n,) of the spots at `positions`."""
        return self.counts.entries(positions), self.batch_N[torch.from_numpy(positions)]

    def explain(self, z_nZ: Tensor, x: SparseCounts, batch_n: Tensor, chance: float = 0.0) -> Explained:
        """Return the decoder's output for the codes `z_nZ` of these spots."""
        return Explained(x, *self.decoder(z_nZ, x, batch_n), chance)

    @torch.no_grad()
    def chance(self, device: torch.device) -> float:
        """Return the loss at code 0, the mean of the prior: the decoder knows patient and total, and nothing of the
        spot.
        """
        n = len(self.counts)
        x, batch_n = self.gather(np.unique(np.linspace(0, n - 1, min(n, CHANCE_SPOTS)).astype(np.int64)))
        x, batch_n = x.to(device), batch_n.to(device)
        z_nZ = torch.zeros(len(x), self.decoder.dim, device=device)
        return float(expression_loss(self.explain(z_nZ, x, batch_n), len(x)))


def expression_data(stage: ImageStage, data: StageData, device: torch.device) -> ExpressionData | None:
    """Return the inputs of the expression loss for the stage's training spots; None if its weight is 0.

    Raises InputError when the gene stage has left no trained gene encoder.
    """
    if stage.config.losses.expression.weight == 0:
        return None
    gene = load_gene_encoder(stage.gene.folder.path)
    assert isinstance(gene.model, GeneVae), "a recipe asks for scVI or scANVI, or is refused"
    of_spot = stage.gene.batch[np.searchsorted(stage.gene.rows, stage.rows)].astype(str)
    batch_N = torch.from_numpy(np.searchsorted(np.array(gene.batches), of_spot).astype(np.int64))
    return ExpressionData(FrozenDecoder(gene.model).to(device), data.counts(gene.panel, stage.rows), batch_N)


@dataclass(frozen=True)
class GeneInput:
    """Gene side of N training spots."""

    tower: Tensor | Counts
    """Input of the gene tower: frozen codes (N, Z), or counts where the tower learns."""
    tuned: TunedTower | None = None
    """The gene stage's encoder, where it is the tower and trains on."""
    expression: ExpressionData | None = None
    """Counts and decoder, where the expression loss has a weight."""

    def gather(self, positions: np.ndarray) -> tuple[Tensor, SparseCounts | None, Tensor | None]:
        """Return codes (n, Z) or counts (n, G) of the spots at `positions`; and for the expression loss their counts
        and batches (n,).
        """
        tower = self.tower
        genes_nX = tower[torch.from_numpy(positions)] if isinstance(tower, Tensor) else tower.gather(positions)
        x, batch_n = (None, None) if self.expression is None else self.expression.gather(positions)
        return genes_nX, x, batch_n


def gene_input(stage: ImageStage, data: StageData, device: torch.device) -> GeneInput:
    """Return the gene side of the stage's rows. Raises InputError as `tower_input` and `expression_data` do."""
    tower, tuned = tower_input(stage, data)
    return GeneInput(tower, tuned, expression_data(stage, data, device))
