"""Products of float32 matrices in the gene stage's precision, and afterwards in whatever it was."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from stray.cohort.dataset import PairedDataset
from stray.data.local import LocalData
from stray.recipe import apply
from stray.stages.gene.task import GeneTask
from stray.stages.run import run_stage
from stray.track.tracker import MemoryTracker
from stray.training.process import matrix_products
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, small_recipe


@pytest.mark.parametrize(("precision", "torchs"), [("fp32", "highest"), ("mixed", "medium")])
def test_the_precision_holds_within_and_not_after_even_when_training_fails(
    precision: Literal["fp32", "mixed"], torchs: str
) -> None:
    before, within = torch.get_float32_matmul_precision(), []

    @matrix_products(precision)
    def fails() -> None:
        within.append(torch.get_float32_matmul_precision())
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert within == [torchs]
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("precision", "torchs"), [("fp32", "highest"), ("mixed", "medium")])
def test_a_gene_stage_trains_in_the_precision_of_its_recipe(
    folder: Path,
    dataset: PairedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    torchs: str,
) -> None:
    seen = set()
    step = GeneTask.step
    monkeypatch.setattr(
        GeneTask, "step", lambda *given: (seen.add(torch.get_float32_matmul_precision()), step(*given))[1]
    )
    recipe = apply(small_recipe(folder), {"gene.epochs": 1, "gene.precision": precision})
    stage = prepared_cell(recipe, dataset, tmp_path).scored.gene
    run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
    assert seen == {torchs}
