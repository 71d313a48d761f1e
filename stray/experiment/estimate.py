"""Estimate of an experiment's time here: a few steps of each stage, timed on random numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from stray.cohort.fragments import CountBlock, PatchBlock, compact
from stray.config import (
    ContrastiveConfig,
    GeneConfig,
    ScviConfig,
    TrainableAllConfig,
    TunedTowerConfig,
)
from stray.data.blocks import Counts, Patches
from stray.models.frozen_decoder import FrozenDecoder
from stray.models.gene_vae import GeneVae
from stray.models.towers import TunedTower
from stray.noise import Noise
from stray.stages.contrastive.gene_inputs import ExpressionData, GeneInput
from stray.stages.contrastive.task import ContrastiveTask, PatchInput
from stray.stages.gene.task import GeneTask
from stray.stages.results import digest, measured_rate
from stray.stages.spec import Stage
from stray.training.state import TrainState
from stray.training.task import Task
from stray.training.update import update

TIMED_STEPS = 3
PCA_SPOTS_PER_S = 5_000.0
"""Speed of an incremental fit, roughly: it is over before the workers of a slot have started."""


ROUGH_SPOTS_PER_S = {"gene": 5_000.0, "contrastive": 100.0}
"""Speed of training by a stage's prefix where nothing was measured: it only orders stages."""


def expected_seconds(stage: Stage) -> float:
    """Return about how long a stage takes, from the speed of earlier ones where there were any; nothing is timed."""
    work = stage.work
    if work.config is None:
        return 0.0
    rate = measured_rate(work.config, stage.root) or ROUGH_SPOTS_PER_S[stage.prefix]
    return (work.spots * work.epochs + work.embedded / 3) / rate


class Estimator:
    """Seconds of a stage on this machine, as one process; steps are timed once for each kind of stage."""

    def __init__(self, patch_px: int, n_genes: int) -> None:
        """Size of the patches and the largest panel that the cohort allows."""
        self._patch_px, self._n_genes = patch_px, n_genes
        self._rates: dict[str, float] = {}
        self.measured = 0
        """Settings whose speed was taken from stages trained before."""

    def stage(self, stage: Stage) -> float:
        """Return the seconds of a stage."""
        work = stage.work
        if work.config is None:
            return 0.0
        seconds = 0.0
        if work.epochs:
            seconds += work.spots * work.epochs / self._rate(work.config, stage.root)
        elif work.spots:
            seconds += work.spots / PCA_SPOTS_PER_S
        if work.embedded and isinstance(work.config, ContrastiveConfig):
            whole = replace(work.config, trainable=TrainableAllConfig())
            seconds += work.embedded / (3 * self._rate(whole, stage.root))  # forward alone is a third of a step
        return seconds

    def _rate(self, config: GeneConfig | ContrastiveConfig, root: str) -> float:
        """Return the spots/s of training with `config`: as it was when a stage of it was trained below `root`, else
        timed now.
        """
        key = digest(config)
        if key not in self._rates and (known := measured_rate(config, root)) is not None:
            self._rates[key] = known
            self.measured += 1
        elif key not in self._rates:
            task = self._gene_task(config) if isinstance(config, GeneConfig) else self._image_task(config)
            self._rates[key] = config.batch_size / _seconds_per_step(task, config)
        return self._rates[key]

    def _counts(self, n: int, n_genes: int) -> Counts:
        import scipy.sparse as sp

        rng = np.random.default_rng(0)
        counts = sp.csr_matrix(rng.poisson(0.1, (n, n_genes)))
        return Counts([CountBlock(np.arange(n), compact(counts))], np.arange(n))

    def _gene_task(self, config: GeneConfig) -> Task:
        n = 2 * config.batch_size
        genes = min(config.panel.n_genes, self._n_genes) if config.panel.kind != "all" else self._n_genes
        batch_n, label_n = np.array(["a"] * n), np.array(["x", "y"] * config.batch_size)
        return GeneTask(config, self._counts(n, genes), batch_n, label_n, seed=0, device=torch.device("cpu"))

    def _image_task(self, config: ContrastiveConfig) -> Task:
        n = config.batch_size
        pixels = np.zeros((n, self._patch_px, self._patch_px, 3), dtype=np.uint8)
        patches = Patches([PatchBlock(np.arange(n), pixels)], np.arange(n))
        genes, tuned = torch.randn(n, 10), None
        if isinstance(config.gene_tower, TunedTowerConfig):
            vae = GeneVae(ScviConfig(), n_genes=min(1000, self._n_genes), n_batches=1)
            tuned = TunedTower(vae.encoder, torch.randn(n, vae.dim), config.gene_tower.lr_multiplier)
        if config.gene_tower.kind != "frozen":
            genes = self._counts(n, min(1000, self._n_genes))
        label_n, expression, device = np.resize(["x", "y"], n), None, torch.device("cpu")
        if config.losses.expression.weight > 0:
            counts = self._counts(n, min(1000, self._n_genes))
            decoder = FrozenDecoder(GeneVae(ScviConfig(), n_genes=counts.n_genes, n_batches=1))
            expression = ExpressionData(decoder, counts, torch.zeros(n, dtype=torch.int64))
        patient_n = np.arange(n) % max(2, config.batches.patients_per_batch or 2)
        return ContrastiveTask(
            replace(config, compile=False),
            PatchInput(patches, label_n, patient_n),
            GeneInput(genes, tuned, expression),
            seed=0,
            device=device,
        )


def _seconds_per_step(task: Task, config: GeneConfig | ContrastiveConfig) -> float:
    scaler = task.scaler() if isinstance(task, ContrastiveTask) else None
    state = TrainState.start(task.module, config.optim, scaler)
    count = len(task.plan.batches(0)[0])
    noise = Noise.of_rank(0, 0, 0, count)
    step: Callable[[], object] = lambda: update(  # noqa: E731
        state, task.step(task.gather(np.arange(count), noise), noise), config.optim.lr, None
    )
    task.module.train()
    step()  # the first step allocates
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    # The fastest: what other processes of the machine take in a moment is not taken all the time.
    return min(seconds) * config.batch_size / count
