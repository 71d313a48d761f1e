"""A loss or gradient that is not finite: what is told, by both stages, with real spots."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.data.batches import BatchPlan, LabelledPlan
from stray.data.local import LocalData
from stray.errors import InputError, NotFiniteError
from stray.models.mlp import Gaussian
from stray.models.scanvi import Scanvi
from stray.recipe import apply
from stray.stages.gene.task import GeneTask
from stray.stages.run import run_stage
from stray.stages.spec import ImageStage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.small_cohort import NanCounts, prepared_cell, small_recipe


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    return apply(small_recipe(folder), {"gene.epochs": 4, "contrastive.epochs": 3})


def test_weights_that_ran_away_are_told_from_spots_at_fault(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    wild = apply(recipe, {"gene.optim.lr": 1e18, "gene.optim.eps": 1e-12})
    made, worker = prepared_cell(wild, dataset, tmp_path), LocalWorker(tmp_path / "state.pt")
    with pytest.raises(FloatingPointError) as caught:
        run_stage(made.scored.gene, LocalData(dataset), worker, MemoryTracker())
    told = str(caught.value)
    assert "gene epoch 1, step 2 of 3: loss nan" in told
    assert "is not finite at any of 32 spots, so no single spot is at fault" in told
    assert "of section P2S1 (" in told
    assert "of section P3S1 (" in told
    assert "no checkpoint was written before" in told
    assert "lower gene.optim.lr or set gene.optim.clip_norm" in told
    assert len(told) < 700
    assert worker.restore() is None
    assert not made.scored.gene.folder.is_done()


def test_a_spot_whose_counts_are_not_finite_is_named_with_its_section_and_the_last_checkpoint(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    made, state = prepared_cell(recipe, dataset, tmp_path), tmp_path / "state.pt"
    stage = made.scored.gene
    counts = LocalData(dataset).counts(stage.panel(), stage.rows)
    bad = GeneTask(stage.config, counts, stage.batch, stage.label, seed=0, device=CPU)
    place = int(bad.places(None, 0, 1)[3])  # the fourth spot of the second step
    spots = dataset.spots().take(stage.rows)
    with pytest.raises(NotFiniteError) as caught:
        run_stage(stage, NanCounts(dataset, place, from_gather=11), LocalWorker(state), MemoryTracker())
    told = str(caught.value)
    assert "gene epoch 3, step" in told
    assert "the sum of the counts is not finite at 1 of" in told
    assert f"spots: 1 of section {spots.section[place]} ({spots.spot_id[place]});" in told
    assert f"the last good checkpoint is that after epoch 2 ({state})" in told
    assert "check these spots in the data" in told
    found = LocalWorker(state).restore()
    assert found is not None
    assert found["epoch"] == 2


def test_a_spot_whose_posterior_overflows_is_named_though_batch_norm_carries_it_to_all(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = prepared_cell(recipe, dataset, tmp_path).scored.gene
    original = Gaussian.forward

    def overflow(self, x_nD, injected_nB=None, noise=None, site=""):
        mean, variance = original(self, x_nD, injected_nB, noise, site)
        return mean, torch.where(torch.arange(len(variance))[:, None] == 5, torch.inf, variance)

    monkeypatch.setattr(Gaussian, "forward", overflow)
    with pytest.raises(
        NotFiniteError, match=r"posterior q\(z \| x\) is not finite at 1 of 32 spots: 1 of section P\dS1"
    ):
        run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())


def test_a_labelled_spot_whose_cross_entropy_is_not_finite_is_named(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = prepared_cell(apply(recipe, {"gene.model.kind": "scanvi"}), dataset, tmp_path).scored.gene
    original = Scanvi.cross_entropy

    def overflow(self, x, class_n, noise):
        entropy_n, logits_nK = original(self, x, class_n, noise)
        return torch.where(torch.arange(len(entropy_n)) == 2, torch.inf, 1.0) * entropy_n, logits_nK

    monkeypatch.setattr(Scanvi, "cross_entropy", overflow)
    assert stage.label is not None
    classes = np.where(stage.label == "", -1, np.unique(stage.label, return_inverse=True)[1])
    place = LabelledPlan(classes, 32, 3, stage.seed, balanced=False).batch(0, 0)[2]
    spot = dataset.spots().spot_id[stage.rows[place]]
    with pytest.raises(
        NotFiniteError, match=rf"cross-entropy of the class is not finite at 1 of 32 spots: .*\({spot}\)"
    ):
        run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())


def test_a_gradient_that_alone_is_not_finite_names_the_sections_of_the_batch(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    stage = prepared_cell(recipe, dataset, tmp_path).scored.gene
    original = GeneTask.step

    def steep(self, batch, noise):
        output = original(self, batch, noise)
        weight = next(self.module.parameters())
        return replace(output, loss=output.loss + (weight * 0).sum().sqrt())  # value 0, slope infinite times zero

    monkeypatch.setattr(GeneTask, "step", steep)
    with pytest.raises(NotFiniteError) as caught:
        run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
    told = str(caught.value)
    assert "gradient norm nan; each spot's terms are finite, but the gradient over the batch is not" in told
    assert "; the batch is " in told
    assert "of section P2S1" in told
    assert "of section P3S1" in told


def test_a_spot_is_named_by_the_contrastive_stage_though_its_loss_meets_all_others(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    changed = apply(recipe, {"contrastive.gene_tower": {"kind": "mlp"}})
    stage = prepared_cell(changed, dataset, tmp_path).scored
    assert isinstance(stage, ImageStage)
    place = int(BatchPlan(len(stage.rows), 32, 0, keep_remainder=False).batches(0)[1][7])
    spots = dataset.spots().take(stage.rows)
    with pytest.raises(NotFiniteError) as caught:
        run_stage(stage, NanCounts(dataset, place), LocalWorker(), MemoryTracker())
    told = str(caught.value)
    assert "contrastive epoch 1, step 2 of 2" in told
    assert "what the gene tower takes is not finite at 1 of 32 spots: 1 of section" in told
    assert f"section {spots.section[place]} ({spots.spot_id[place]})" in told


def test_gene_codes_that_are_not_finite_are_refused_with_their_sections(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    made = prepared_cell(recipe, dataset, tmp_path)
    run_stage(made.scored.gene, LocalData(dataset), LocalWorker(), MemoryTracker())
    folder = made.scored.gene.folder
    codes = folder.read_array("codes.npy")
    codes[0, 0] = np.nan
    folder.write_array("codes.npy", codes)
    with pytest.raises(InputError, match=r"codes of 1 of 80 spots are not finite: 1 of section P2S1 \(P2S1_0x5\)"):
        run_stage(made.scored, LocalData(dataset), LocalWorker(), MemoryTracker())


def test_sections_that_cannot_be_read_do_not_bury_the_error(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    class Gone(LocalData):
        def spots(self, rows):
            raise FileNotFoundError("the dataset is gone")

    wild = apply(recipe, {"gene.optim.lr": 1e18, "gene.optim.eps": 1e-12})
    made = prepared_cell(wild, dataset, tmp_path)
    with pytest.raises(NotFiniteError, match=r"32 spots whose sections cannot be read \(the dataset is gone\)"):
        run_stage(made.scored.gene, Gone(dataset), LocalWorker(), MemoryTracker())


def test_the_error_crosses_processes_whole() -> None:
    from stray.errors import Problem

    error = NotFiniteError(Problem("gene epoch 3, step 1 of 2", "loss nan", "less"), 2).at("/c/p")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.epoch, again.checkpoint) == (str(error), 2, "/c/p")
    assert "that after epoch 2 (/c/p)" in str(again)


CPU = torch.device("cpu")
