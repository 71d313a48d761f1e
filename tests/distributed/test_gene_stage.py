"""The gene stage's history is the same on every worker, and on any number of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stray.cohort.fragments import CountBlock, compact
from stray.config import GeneConfig, ScanviConfig, ScviConfig
from stray.data.blocks import Counts
from stray.stages.gene.task import GeneTask
from stray.track.tracker import NullTracker
from stray.training.loop import fit
from stray.training.worker import LocalWorker
from tests.support.gloo import Job, run_on

SEPARATION = ("batch_silhouette", "batch_knn_purity", "class_silhouette", "class_knn_purity")
TIMES = ("spots_per_second", "waiting_for_data_share", "peak_memory_gib")


def history(kind: str) -> list[dict[str, float]]:
    """Three epochs on 130 spots of three patients and two classes, 39 of them held out: an odd number to share."""
    rng = np.random.default_rng(0)
    patient, tissue = rng.integers(0, 3, 130), rng.integers(0, 2, 130)
    rate = np.exp(rng.normal(size=(3, 20)))[patient] * np.exp(rng.normal(size=(2, 20)))[tissue]
    block = CountBlock(np.arange(130), compact(sp.csr_matrix(rng.poisson(rate))))
    label = np.where(rng.random(130) < 0.7, np.array(["fat", "tumour"])[tissue], "")
    model = ScviConfig(n_latent=3, n_hidden=16) if kind == "scvi" else ScanviConfig(n_latent=3, n_hidden=16)
    config = GeneConfig(model=model, epochs=3, batch_size=32, validation_share=0.3)
    counts, batch = Counts([block], np.arange(130)), np.char.add("P", patient.astype(str))
    task = GeneTask(config, counts, batch, label, seed=0, device=torch.device("cpu"))
    assert task.n_held_out % 2 == 1
    return fit(
        task,
        config.optim,
        worker=LocalWorker(),
        tracker=NullTracker(),
        prefix="gene",
        seed=0,
    ).history


JOBS: dict[str, Job] = {"scvi": (history, ("scvi",)), "scanvi": (history, ("scanvi",))}


@pytest.fixture(scope="module")
def on_two() -> dict[str, list[Any]]:
    return run_on(2, JOBS)


@pytest.mark.parametrize("kind", list(JOBS))
def test_separation_of_the_codes_is_in_every_epoch_the_same_on_all_workers_and_as_on_one(
    kind: str, on_two: dict[str, list[Any]]
) -> None:
    (one,) = run_on(1, {kind: JOBS[kind]})[kind]
    first, second = on_two[kind]
    assert len(one) == len(first) == len(second) == 3
    for epoch, (alone, here, there) in enumerate(zip(one, first, second, strict=True)):
        for name in SEPARATION:
            assert here[name] == there[name], name  # to the last digit: decisions are taken from the history
            assert here[name] == pytest.approx(alone[name], abs=2e-3), f"{name}, epoch {epoch}"
    assert len({one[epoch]["batch_silhouette"] for epoch in range(3)}) == 3


def test_all_that_decides_is_the_same_on_all_workers(on_two: dict[str, list[Any]]) -> None:
    for first, second in on_two.values():
        for here, there in zip(first, second, strict=True):
            same = {name for name in here if here[name] == there[name]}
            assert same >= here.keys() - set(TIMES)
