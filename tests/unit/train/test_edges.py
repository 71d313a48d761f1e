"""What real cohorts hold and a stage must train on: lone spots, lone sections, spots without counts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import Panel
from stray.config import Recipe
from stray.data.blocks import Counts
from stray.data.local import LocalData
from stray.errors import InputError
from stray.recipe import apply
from stray.stages.run import run_stage
from stray.stages.spec import GeneStage, ImageStage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, small_recipe

MODELS = {
    "scVI": {"kind": "scvi"},
    "scVI, ZINB, learned library": {"kind": "scvi", "likelihood": "zinb", "library": "learned"},
    "scANVI": {"kind": "scanvi"},
    "scANVI, learned library": {"kind": "scanvi", "library": "learned", "dispersion": "gene-batch"},
    "scANVI, balanced": {"kind": "scanvi", "balanced": True},
}
each_model = pytest.mark.parametrize("model", list(MODELS.values()), ids=list(MODELS))


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    return apply(small_recipe(folder), {"gene.epochs": 3, "contrastive.epochs": 2, "gene.panel.kind": "mean"})


def gene_stage(recipe: Recipe, dataset: PairedDataset, root: Path, **changes: object) -> GeneStage:
    changed = apply(recipe, {f"gene.{name}": value for name, value in changes.items()})
    return prepared_cell(changed, dataset, root).scored.gene


def narrowed(stage: GeneStage, places: np.ndarray) -> GeneStage:
    """The stage of some of its spots, with the same panel."""
    label = None if stage.label is None else stage.label[places]
    fewer = replace(stage, rows=stage.rows[places], batch=stage.batch[places], label=label)
    shutil.copy(stage.panel_path, fewer.panel_path)
    return fewer


def trained(stage: GeneStage, data: LocalData) -> list[dict[str, float]]:
    """The history, once weights and codes are known to be finite."""
    run_stage(stage, data, LocalWorker(), MemoryTracker())
    for name, value in stage.folder.read_weights("weights.pt").items():
        assert value.isfinite().all(), name
    codes = stage.folder.read_array("codes.npy")
    assert np.isfinite(codes).all()
    assert len(codes) == len(stage.rows)
    history = stage.folder.read_json("history.json")
    assert len(history) == stage.config.epochs
    assert all(np.isfinite(value) for epoch in history for value in epoch.values())
    return history


@each_model
@pytest.mark.parametrize("whole", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)])
def test_a_leftover_of_one_spot(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, model: dict, whole: int
) -> None:
    """Batch norm has no statistics over one spot: it joins the batch before it, and none is left out."""
    stage = gene_stage(recipe, dataset, tmp_path, model=model, batch_size=70 // whole, validation_share=0.1)
    stage, tracker = narrowed(stage, np.arange(79)), MemoryTracker()  # four spots of each patient are held out
    run_stage(stage, LocalData(dataset), LocalWorker(), tracker)
    assert len(tracker.series("gene/step_loss")) == 3 * whole
    assert all(np.isfinite(loss) for _, loss in tracker.series("gene/step_loss"))
    assert np.isfinite(stage.folder.read_array("codes.npy")).all()


class Emptied(LocalData):
    """A cohort in which some spots have no counts in the panel."""

    def __init__(self, dataset: PairedDataset, places: np.ndarray) -> None:
        super().__init__(dataset)
        self._places = places

    def counts(self, panel: Panel, rows: np.ndarray) -> Counts:
        from stray.cohort.fragments import CountBlock, read_counts

        emptied = []
        for file in self._dataset.fragments(counts=True):
            for block in read_counts(file, np.array(panel.index), self._dataset.manifest.n_genes):
                matrix = block.matrix().tolil()
                matrix[np.isin(block.rows, rows[self._places])] = 0
                emptied.append(CountBlock(block.rows, csr_matrix(matrix)))
        found = Counts(emptied, rows)
        assert (np.flatnonzero(found.totals() == 0) == self._places).all()
        return found


@each_model
def test_spots_without_counts_in_the_panel(recipe: Recipe, dataset: PairedDataset, tmp_path: Path, model: dict) -> None:
    """They train: zeros are what was measured, and say nothing of which gene has them."""
    trained(gene_stage(recipe, dataset, tmp_path, model=model), Emptied(dataset, np.array([0, 11, 50])))


def test_spots_without_counts_in_the_panel_meet_their_pictures(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    stage = prepared_cell(apply(recipe, {"contrastive.gene_tower": {"kind": "mlp"}}), dataset, tmp_path).scored
    assert isinstance(stage, ImageStage)
    tracker = MemoryTracker()
    run_stage(stage, Emptied(dataset, np.array([0, 11, 50])), LocalWorker(), tracker)
    assert np.isfinite(stage.folder.read_array("features.npy")).all()
    assert all(np.isfinite(value) for _, value in tracker.series("contrastive/step_loss"))


def test_a_leftover_of_one_pair_sits_the_epoch_out(recipe: Recipe, dataset: PairedDataset, tmp_path: Path) -> None:
    """It would have no negative, and batch norm no statistics."""
    changed = apply(recipe, {"contrastive.gene_tower": {"kind": "mlp"}, "contrastive.batch_size": 79})
    stage = prepared_cell(changed, dataset, tmp_path).scored
    tracker = MemoryTracker()
    run_stage(stage, LocalData(dataset), LocalWorker(), tracker)
    assert len(tracker.series("contrastive/step_loss")) == 2
    assert np.isfinite(stage.folder.read_array("features.npy")).all()


@each_model
@pytest.mark.parametrize("share", [0.1, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_patient_of_one_spot(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, model: dict, share: float
) -> None:
    """It trains and is never held out; with a learned library its prior has the variance of all spots."""
    stage = gene_stage(recipe, dataset, tmp_path, model=model, validation_share=share)
    batch = stage.batch.copy()
    batch[17] = "alone"
    trained(replace(stage, batch=batch), LocalData(dataset))


def test_a_patient_of_one_spot_leaves_the_panel_to_the_others(dataset: PairedDataset, recipe: Recipe) -> None:
    from stray.cohort.panel import fit_panel

    class Renamed:
        def __init__(self) -> None:
            spots = dataset.spots()
            patient, section = spots.patient.copy(), spots.section.copy()
            patient[-1], section[-1] = "alone", "alone"
            self._spots = replace(spots, patient=patient, section=section)

        def __getattr__(self, name: str):
            return getattr(dataset, name)

        def spots(self):
            return self._spots

    for kind in ("hvg", "svg", "union", "mean", "all"):
        config = replace(recipe.gene.panel, kind=kind, min_sections_share=0.0)
        assert len(fit_panel(Renamed(), ("P2", "P3", "alone"), config)) >= 60  # type: ignore[arg-type]


@each_model
def test_patients_of_one_section_with_the_section_as_batch(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, model: dict
) -> None:
    stage = gene_stage(recipe, dataset, tmp_path, model=model, batch_key="section")
    assert len(np.unique(stage.batch)) == 2
    trained(stage, LocalData(dataset))


@each_model
def test_a_single_patient_of_one_section(recipe: Recipe, dataset: PairedDataset, tmp_path: Path, model: dict) -> None:
    stage = gene_stage(recipe, dataset, tmp_path, model=model)
    trained(narrowed(stage, np.flatnonzero(stage.batch == "P2")), LocalData(dataset))


@pytest.mark.parametrize("balanced", [False, True], ids=["in turn", "balanced"])
@pytest.mark.parametrize("others", [True, False], ids=["among others", "the only label"])
def test_a_class_of_one_spot(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, balanced: bool, others: bool
) -> None:
    """It is a class like any other, and of the only labelled spot one class is left, which costs no cross-entropy."""
    stage = gene_stage(recipe, dataset, tmp_path, model={"kind": "scanvi", "balanced": balanced})
    assert stage.label is not None
    label = stage.label.astype(object) if others else np.full(len(stage.label), "", dtype=object)
    label[5] = "rare"
    history = trained(replace(stage, label=label.astype(str)), LocalData(dataset))
    entropy = [epoch["cross_entropy"] for epoch in history]
    assert all(value > 0 for value in entropy) if others else entropy == [0.0] * 3


@each_model
def test_a_patient_none_of_whose_spots_has_the_counts_to_train(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, model: dict
) -> None:
    """Its batch is none: a learned library would have no mean there."""
    stage = gene_stage(recipe, dataset, tmp_path, model=model, min_count=1)
    batch = stage.batch.copy()
    batch[[3, 4]] = "poor"
    trained(replace(stage, batch=batch), Emptied(dataset, np.array([3, 4])))
    assert replace(stage, batch=batch).folder.read_json("config.json")["batches"] == ["P2", "P3"]


def test_fewer_than_two_spots_to_train_on_are_refused(recipe: Recipe, dataset: PairedDataset, tmp_path: Path) -> None:
    stage = gene_stage(recipe, dataset, tmp_path, min_count=10**9)
    with pytest.raises(InputError, match="0 of 80 spots have enough counts to train on; batch norm needs two"):
        run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())


def test_batch_norm_over_one_spot_is_what_all_this_avoids() -> None:
    from stray.models.norm import GlobalBatchNorm

    with pytest.raises(ValueError, match="more than 1 value per channel"):
        GlobalBatchNorm(3)(torch.zeros(1, 3))
