"""Run a gene stage: train or fit the encoder, code the spots, keep the results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from stray.collective import gather_rows, rank_rows
from stray.config import LogCountsConfig, PcaConfig, ScviConfig
from stray.data.blocks import Counts
from stray.data.source import StageData
from stray.errors import InputError, Problem
from stray.models.pca import Pca
from stray.models.scanvi import Scanvi
from stray.stages.faults import naming_spots
from stray.stages.gene.encoder import GeneModel, build_gene_model, load_gene_encoder
from stray.stages.gene.figure import draw_codes
from stray.stages.gene.task import GeneTask
from stray.stages.results import keep_rate
from stray.stages.spec import CODES_FIGURE, STEPS, CodesStage, GeneStage
from stray.training.process import matrix_products
from stray.training.selection import Selection
from stray.training.state import TrainState
from stray.training.worker import Worker

CHUNK = 1024
"""Number of spots encoded at a time."""


def run_gene(stage: GeneStage, data: StageData, worker: Worker, train: Callable[..., TrainState]) -> None:
    """Train the gene encoder by `train` (or fit it in one pass) and code the stage's spots."""
    panel = stage.panel()
    counts = data.counts(panel, stage.rows)
    probability_NK, batches, classes = None, [], []
    history: list[dict[str, float]] = []
    steps: list[tuple[int, float]] = []
    if isinstance(stage.config.model, (PcaConfig, LogCountsConfig)):
        module = _fitted(stage, counts).to(worker.device)
    else:
        task = GeneTask(stage.config, counts, stage.batch, stage.label, seed=stage.seed, device=worker.device)
        if stage.start is not None:
            task.module.load_state_dict(stage.start.folder.read_weights("weights.pt"), strict=False)
        selection = _selection(stage, task)
        naming = naming_spots(stage.prefix, task.places, lambda places: data.spots(stage.rows[places]))
        with matrix_products(stage.config.precision), naming:
            state = train(task, stage.config.optim, prefix=stage.prefix, seed=stage.seed, selection=selection)
            history, steps = state.history, state.step_losses
            best = selection.best(history) if selection is not None and stage.config.keep == "best" else None
            task.finish(len(history) if best is None else best + 1)
        module, batches, classes = task.module, task.names.tolist(), task.classes.tolist()
        if isinstance(module, Scanvi):
            probability_NK = _over_all(module.eval().probabilities, counts, worker)
    codes_NZ = _over_all(module.eval().encode, counts, worker)
    if worker.rank == 0:
        folder = stage.folder
        data.require_unchanged()  # do not keep a result computed from two versions of the dataset
        folder.clear()
        folder.write_weights("weights.pt", module.state_dict())
        folder.write_bytes("panel.json", panel.to_json().encode())
        facts = {"gene": asdict(stage.config), "batches": batches, "classes": classes, "seed": stage.seed}
        folder.write_json("config.json", facts)
        folder.write_json("history.json", history)
        keep_rate(stage.config, stage.root, history)
        folder.write_json(STEPS, steps)
        folder.write_array("rows.npy", stage.rows)
        folder.write_array("codes.npy", codes_NZ.numpy())
        if (figure := draw_codes(stage, counts, codes_NZ)) is not None:
            folder.write_bytes(CODES_FIGURE, figure)
        if probability_NK is not None:
            folder.write_array("probabilities.npy", probability_NK.numpy())
        folder.finish({"kind": "gene", "dataset": stage.dataset})
    worker.all_reduce(torch.zeros(1, device=worker.device))  # no reader opens the folder before it is complete


def _selection(stage: GeneStage, task: GeneTask) -> Selection | None:
    """Return the selection by the ELBO of held-out spots; None where none are held out.

    Raises InputError when a setting watches that ELBO and every batch is too small to hold a spot out.
    """
    config = stage.config
    assert isinstance(config.model, ScviConfig)
    if task.n_held_out == 0:
        what = f"needs the ELBO on held-out spots, but every {config.batch_key} is too small to hold one out"
        if watching := config.watches_held_out:
            remedy = "a larger gene.validation_share, or remove the setting"
            raise InputError(Problem(place, what, remedy) for place in watching)
        return None
    steps = config.model.kl_warmup_steps
    warm = math.ceil(config.model.kl_warmup_share * config.epochs if steps is None else steps / task.plan.steps)
    start = min(warm, config.epochs - 1)
    return Selection("validation_elbo", start, config.patience, keep_best=config.keep == "best")


def _fitted(stage: GeneStage, counts: Counts) -> GeneModel:
    """Fit a model in one pass; every rank fits the same, the counts lie on its node."""
    config = stage.config
    module = build_gene_model(config.model, n_genes=counts.n_genes, n_batches=1, n_classes=0, seed=stage.seed)
    if isinstance(module, Pca):
        usable = np.flatnonzero(counts.totals() >= config.min_count)
        most = min(len(usable), counts.n_genes)
        if module.dim > most:
            what = f"{module.dim} components of {len(usable)} training spots and {counts.n_genes} genes"
            raise InputError(Problem("gene.model.n_latent", what, f"at most {most}"))
        pieces = max(1, len(usable) // max(CHUNK, 2 * module.dim))
        module.fit(counts.gather(piece) for piece in np.array_split(usable, pieces))
    return module


def run_codes(stage: CodesStage, data: StageData, worker: Worker) -> None:
    """Code spots with the encoder that a gene stage left."""
    encoder = load_gene_encoder(stage.gene.folder.path)
    counts = data.counts(encoder.panel, stage.embed_rows)
    codes_NZ = _over_all(encoder.model.to(worker.device).encode, counts, worker)
    if worker.rank == 0:
        folder = stage.folder
        data.require_unchanged()
        folder.clear()
        folder.write_json("history.json", [])
        folder.write_array("rows.npy", stage.embed_rows)
        folder.write_array("features.npy", codes_NZ.numpy())
        folder.finish({"kind": "codes", "dataset": stage.gene.dataset})
    worker.all_reduce(torch.zeros(1, device=worker.device))


def _over_all(code: Callable[[Tensor], Tensor], counts: Counts, worker: Worker) -> Tensor:
    """Return `code` of every position, on the host of every rank; each rank computes its part."""
    mine = np.arange(len(counts))[rank_rows(len(counts))]
    chunks = [mine[i : i + CHUNK] for i in range(0, len(mine), CHUNK)] or [mine]
    local = torch.cat([code(counts.gather(chunk).to(worker.device)) for chunk in chunks])
    return gather_rows(local, len(counts)).cpu()
