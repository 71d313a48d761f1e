"""Run a contrastive stage: train the image encoder or leave it untrained, embed the patches, keep the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from stray.collective import gather_rows
from stray.config import ImageConfig
from stray.data.batches import hold_out
from stray.data.source import StageData
from stray.models.image_encoder import ImageEncoder
from stray.noise import numpy_generator, torch_generator
from stray.stages.contrastive.encoder_checks import check_encoder
from stray.stages.contrastive.gene_inputs import gene_input, tower_input
from stray.stages.contrastive.monitor import PairMonitor
from stray.stages.contrastive.task import ContrastiveTask, PatchInput, embed
from stray.stages.faults import naming_spots
from stray.stages.results import keep_rate
from stray.stages.spec import STEPS, ImageStage
from stray.training.state import TrainState
from stray.training.worker import Worker


def run_image(stage: ImageStage, data: StageData, worker: Worker, train: Callable[..., TrainState]) -> None:
    """Train the image encoder by `train`, or leave it as it was initialised, and embed patches with it."""
    history: list[dict[str, float]] = []
    steps: list[tuple[int, float]] = []
    if stage.train:
        trained, watched = _split(stage)
        task = ContrastiveTask(
            trained.config,
            PatchInput(data.patches(trained.rows), trained.label, trained.patient, trained.stream),
            gene_input(trained, data, worker.device),
            seed=trained.gene.seed,
            device=worker.device,
            monitor=None if watched is None else _monitor(watched, data),
            judge=None if stage.judge is None else (stage.judge, data.patches(stage.judge.rows)),
        )
        with naming_spots(
            stage.prefix,
            lambda term, epoch, step: task.plan.batches(epoch)[step],
            lambda places: data.spots(trained.rows[places]),
        ):
            state = train(task, stage.config.optim, prefix=stage.prefix, seed=stage.gene.seed, scaler=task.scaler())
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


def _monitor(stage: ImageStage, data: StageData) -> PairMonitor:
    assert stage.section is not None
    return PairMonitor(data.patches(stage.rows), tower_input(stage, data)[0], stage.section)


def untrained(config: ImageConfig, seed: int) -> ImageEncoder:
    """Return the image encoder as the contrastive stage would start it, but for the draw of its random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "untrained", "init").initial_seed())
        return ImageEncoder(config)
