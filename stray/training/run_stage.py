"""A stage from its settings and its rows to a folder of results. A stage that is done is not done again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stray.collective import gather_rows, share
from stray.config import ImageConfig, LogCountsConfig, PcaConfig, ScviConfig
from stray.errors import InputError, Problem
from stray.models.image_encoder import ImageEncoder
from stray.models.pca import Pca
from stray.models.scanvi import Scanvi
from stray.noise import numpy_generator, torch_generator
from stray.track.tracker import Tracker
from stray.training.blocks import Counts
from stray.training.checkpoints import Every
from stray.training.code_figure import draw_codes
from stray.training.contrastive_task import ContrastiveTask, embed
from stray.training.encoder_checks import check_encoder
from stray.training.expression_data import expression_data
from stray.training.gene_folder import load_gene_encoder
from stray.training.gene_models import GeneModel, build_gene_model
from stray.training.gene_task import GeneTask
from stray.training.gene_towers import tower_input
from stray.training.held_out import hold_out
from stray.training.loop import fit
from stray.training.pair_watch import PairWatch
from stray.training.precision import matrix_products
from stray.training.rates import keep_rate
from stray.training.selection import Selection
from stray.training.stages import CODES_FIGURE, STEPS, CodesStage, GeneStage, ImageStage, Stage, StageData
from stray.training.state import TrainState
from stray.training.worker import Worker

CHUNK = 1024
"""Spots that are coded at a time."""


def run_stage(
    stage: Stage,
    data: StageData,
    worker: Worker,
    tracker: Tracker,
    *,
    checkpoint_every: int = 1,
    checkpoint_every_steps: int | None = None,
) -> None:
    """Run `stage` to its end and keep its results; every worker calls it. Returns at once when it was done before."""
    if _agree(worker.rank == 0 and stage.folder.is_done(), worker):
        return
    every = Every(epochs=checkpoint_every, steps=checkpoint_every_steps)
    train = partial(fit, worker=worker, tracker=tracker, checkpoint_every=every, batches_ahead=data.batches_ahead)
    if isinstance(stage, GeneStage):
        _run_gene(stage, data, worker, train)
    elif isinstance(stage, CodesStage):
        _run_codes(stage, data, worker)
    else:
        _run_image(stage, data, worker, train)


def _agree(done: bool, worker: Worker) -> bool:
    """Return what rank 0 found (`done` is false elsewhere): the workers must not differ on whether there is a stage to
    run.
    """
    found = torch.tensor([float(done)], device=worker.device)
    return bool(worker.all_reduce(found) > 0)


def _run_gene(stage: GeneStage, data: StageData, worker: Worker, train: Callable[..., TrainState]) -> None:
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
        train = partial(train, selection=selection, spots_at=lambda places: data.spots(stage.rows[places]))
        with matrix_products(stage.config.precision):
            state = train(task, stage.config.optim, prefix="gene", seed=stage.seed)
            history, steps = state.history, state.step_losses
            best = selection.best(history) if selection is not None and stage.config.keep == "best" else None
            task.finish(len(history) if best is None else best + 1)
        module, batches, classes = task.module, task.names.tolist(), task.classes.tolist()
        if isinstance(module, Scanvi):
            probability_NK = _over_all(module.eval().probabilities, counts, worker)
    codes_NZ = _over_all(module.eval().encode, counts, worker)
    if worker.rank == 0:
        folder = stage.folder
        data.require_unchanged()  # what was made of two datasets is kept under the name of neither
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
    worker.all_reduce(torch.zeros(1, device=worker.device))  # nobody reads the folder before it is whole


def _selection(stage: GeneStage, task: GeneTask) -> Selection | None:
    """Return the selection by the ELBO of held-out spots; None where none are held out.

    Raises InputError when a setting watches that ELBO and every batch is too small to hold a spot out.
    """
    config = stage.config
    assert isinstance(config.model, ScviConfig)
    if task.n_held_out == 0:
        what = f"watches the ELBO on held-out spots, and every {config.batch_key} is too small to hold one out"
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


def _run_codes(stage: CodesStage, data: StageData, worker: Worker) -> None:
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
    mine = np.arange(len(counts))[share(len(counts))]
    chunks = [mine[i : i + CHUNK] for i in range(0, len(mine), CHUNK)] or [mine]
    local = torch.cat([code(counts.gather(chunk).to(worker.device)) for chunk in chunks])
    return gather_rows(local, len(counts)).cpu()


def _run_image(stage: ImageStage, data: StageData, worker: Worker, train: Callable[..., TrainState]) -> None:
    history: list[dict[str, float]] = []
    steps: list[tuple[int, float]] = []
    if stage.train:
        trained, watched = _split(stage)
        genes, tuned = tower_input(trained, data)
        task = ContrastiveTask(
            trained.config,
            data.patches(trained.rows),
            genes,
            seed=trained.gene.seed,
            device=worker.device,
            label_N=trained.label,
            patient_N=trained.patient,
            expression=expression_data(trained, data, worker.device),
            stream=trained.stream,
            tuned=tuned,
            watch=None if watched is None else _watch(watched, data),
        )
        train = partial(train, spots_at=lambda places: data.spots(trained.rows[places]))
        state = train(task, stage.config.optim, prefix="contrastive", seed=stage.gene.seed, scaler=task.scaler())
        history, steps = state.history, state.step_losses
        encoder = task.module.coder()
    else:
        encoder = untrained(stage.config.image, stage.gene.seed).to(worker.device)
        check_encoder(encoder, data.patches(stage.embed_rows), worker.device)
        encoder = encoder.to(memory_format=torch.channels_last)
    local_nD = embed(encoder, data.patches(stage.embed_rows), worker.device, ahead=data.batches_ahead)
    features_ND = gather_rows(local_nD.to(worker.device), len(stage.embed_rows)).cpu()
    if worker.rank == 0:
        folder = stage.folder
        data.require_unchanged()
        folder.clear()
        folder.write_weights("encoder.pt", encoder.state_dict())
        folder.write_json(
            "config.json", {"contrastive": asdict(stage.config), "seed": stage.gene.seed, "trained": stage.train}
        )
        folder.write_json("history.json", history)
        keep_rate(stage.config, stage.root, history)
        folder.write_json(STEPS, steps)
        folder.write_array("rows.npy", stage.embed_rows)
        folder.write_array("features.npy", features_ND.numpy())
        folder.finish({"kind": "image", "dataset": stage.gene.dataset})
    worker.all_reduce(torch.zeros(1, device=worker.device))


def _split(stage: ImageStage) -> tuple[ImageStage, ImageStage | None]:
    """Split the stage into the spots that train and those held out; None where there are none."""
    share, places = stage.config.validation_share, np.arange(len(stage.rows))
    if share == 0:
        return stage, None
    assert stage.section is not None
    drawn = numpy_generator(stage.gene.seed, "contrastive", "validation")
    trains, watched = hold_out(places, stage.section.astype(str), share, drawn)
    return stage.at(trains), stage.at(watched) if len(watched) else None


def _watch(stage: ImageStage, data: StageData) -> PairWatch:
    assert stage.section is not None
    return PairWatch(data.patches(stage.rows), tower_input(stage, data)[0], stage.section)


def untrained(config: ImageConfig, seed: int) -> ImageEncoder:
    """Return the image encoder as the contrastive stage would start it, but for the draw of its random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "untrained", "init").initial_seed())
        return ImageEncoder(config)
