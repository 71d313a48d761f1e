"""Run any stage to its end, unless it is done."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch

from stray.config import RunConfig
from stray.data.source import StageData
from stray.stages.contrastive.run import run_image
from stray.stages.gene.run import run_codes, run_gene
from stray.stages.spec import CodesStage, GeneStage, ImageStage, Stage
from stray.track.tracker import Tracker
from stray.training.checkpoints import CheckpointInterval
from stray.training.loop import fit
from stray.training.worker import Worker


def run_stage(
    stage: Stage,
    data: StageData,
    worker: Worker,
    tracker: Tracker,
    run: RunConfig | None = None,
    checkpoint_at: Iterable[int] = (),
) -> None:
    """Run `stage` to its end and keep its results; every worker calls it. Returns at once when it was done before.

    `run` says how often checkpoints are written; None: as often as the defaults say. The epochs `checkpoint_at` end
    with one in any case.
    """
    if _agree(worker.rank == 0 and stage.folder.is_done(), worker):
        return
    run = run or RunConfig()
    every = CheckpointInterval(
        epochs=run.checkpoint_every, steps=run.checkpoint_every_steps, also=frozenset(checkpoint_at)
    )
    train = partial(fit, worker=worker, tracker=tracker, checkpoint_every=every, batches_ahead=data.batches_ahead)
    match stage:
        case GeneStage():
            run_gene(stage, data, worker, train)
        case CodesStage():
            run_codes(stage, data, worker)
        case ImageStage():
            run_image(stage, data, worker, train)


def _agree(done: bool, worker: Worker) -> bool:
    """Return what rank 0 found (`done` is false elsewhere): all workers must agree on whether to run the stage."""
    found = torch.tensor([float(done)], device=worker.device)
    return bool(worker.all_reduce(found) > 0)
