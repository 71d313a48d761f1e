"""Every loss trains an image encoder on a real small cohort, without Ray: one process, the same loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import fit_panel
from stray.config import Recipe
from stray.data.local import LocalData
from stray.errors import InputError
from stray.experiment.cells import Cell
from stray.recipe import apply
from stray.stages.contrastive.gene_inputs import expression_data
from stray.stages.gene.encoder import load_gene_encoder
from stray.stages.run import run_stage
from stray.stages.spec import ImageStage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.encoders_at_hand import FACTORY
from tests.support.small_cohort import small_cell, small_recipe

EPOCHS = 4


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    """Two steps an epoch of a small encoder. The method that has no frozen scVI goes: the expression loss decodes."""
    image = {"kind": "callable", "factory": FACTORY}
    changes = {"gene.epochs": 4, "contrastive.epochs": EPOCHS, "contrastive.image": image}
    return apply(small_recipe(folder, "methods.clip_mlp=null"), changes)


@pytest.fixture(scope="module")
def root(folder: Path, recipe: Recipe, dataset: PairedDataset) -> Path:
    """Where the gene stage that all share is done."""
    made = small_cell(recipe, dataset, root=str(folder / "stages"))
    gene = made.scored.gene
    Path(gene.panel_path).parent.mkdir(parents=True, exist_ok=True)
    Path(gene.panel_path).write_text(fit_panel(dataset, made.fold.train, gene.config.panel).to_json())
    run_stage(gene, LocalData(dataset), LocalWorker(), MemoryTracker())
    return folder / "stages"


def made(recipe: Recipe, dataset: PairedDataset, root: Path | str, **settings: object) -> Cell:
    """The cell of a recipe with the losses of `settings` alone, such as siglip__weight=1."""
    changes = {f"contrastive.losses.{name.replace('__', '.')}": value for name, value in settings.items()}
    return small_cell(apply(recipe, {"contrastive.losses.clip.weight": 0, **changes}), dataset, root=str(root))


CASES: dict[str, dict[str, object]] = {
    "clip": {"clip__weight": 1},
    "smoothed": {"smoothed__weight": 1},
    "guided": {"guided__weight": 1, "guided__unlabelled": "negatives"},
    "siglip": {"siglip__weight": 1, "siglip__bias": -4.0},
    "expression": {"expression__weight": 1},
    "mixture": {
        "clip__weight": 1,
        "smoothed__weight": 0.5,
        "guided__weight": 0.5,
        "siglip__weight": 0.1,
        "expression__weight": 5,
        "chunk": 5,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_trains_an_encoder_and_tells_how_it_goes(
    name: str, recipe: Recipe, dataset: PairedDataset, root: Path
) -> None:
    cell, tracker = made(recipe, dataset, root, **CASES[name]), MemoryTracker()
    assert isinstance(cell.scored, ImageStage)
    run_stage(cell.scored, LocalData(dataset), LocalWorker(), tracker)
    weights, contrasts = cell.recipe.contrastive.losses.weights, cell.recipe.contrastive.losses.contrasts
    history = cell.scored.folder.read_json("history.json")
    assert len(history) == EPOCHS
    assert all(np.isfinite(value) for epoch in history for value in epoch.values())
    for epoch in history:
        for kind in ("loss", "chance"):
            total = sum(weight * epoch[f"{kind}_{term}"] for term, weight in weights.items())
            assert epoch["loss" if kind == "loss" else "chance_loss"] == pytest.approx(total, rel=1e-4)
        assert {n for n in epoch if n.startswith("temperature")} == {f"temperature_{term}" for term in contrasts}
    for term in weights:
        assert min(epoch[f"loss_{term}"] for epoch in history[1:]) < history[0][f"loss_{term}"], term
    for term in contrasts:
        assert history[-1][f"temperature_{term}"] != history[0][f"temperature_{term}"]
    assert ("smoothed_off_diagonal" in history[0]) is ("smoothed" in weights)
    assert ("bias_siglip" in history[0]) is ("siglip" in weights)
    if "guided" in weights:
        assert 0 < history[0]["guided_labelled"] <= 1
    assert np.isfinite(cell.scored.folder.read_array("features.npy")).all()


def test_a_logit_scale_past_its_bound_is_clamped_after_the_step(
    recipe: Recipe, dataset: PairedDataset, root: Path
) -> None:
    scored = made(recipe, dataset, root, guided__weight=1).scored
    assert isinstance(scored, ImageStage)
    # A recipe that starts past the bound is refused, so this one is made beside the decoder.
    guided = replace(scored.config.losses.guided, temperature=0.01, max_logit_scale=10.0)
    config = replace(scored.config, losses=replace(scored.config.losses, guided=guided))
    past = replace(scored, config=config)
    run_stage(past, LocalData(dataset), LocalWorker(), MemoryTracker())
    first, *later = (epoch["temperature_guided"] for epoch in past.folder.read_json("history.json"))
    assert first == pytest.approx((0.01 + 0.1) / 2, rel=0.02)  # two steps: logged at their start
    assert min(later) >= 0.1 - 1e-6


def test_guidance_takes_the_labels_of_training_patients_alone(recipe: Recipe, dataset: PairedDataset) -> None:
    cell = made(recipe, dataset, "r", guided__weight=1)
    assert isinstance(cell.scored, ImageStage)
    assert cell.scored.label is not None
    spots = dataset.spots()
    assert set(spots.patient[cell.scored.rows].tolist()) == set(cell.fold.train)
    known = cell.scored.label != ""
    assert known.any()
    np.testing.assert_array_equal(spots.label[cell.scored.rows][known], cell.scored.label[known])


def test_guidance_without_any_label_is_refused_with_the_remedy(recipe: Recipe, dataset: PairedDataset) -> None:
    silent = apply(recipe, {"eval.label_sources.train": ["nobody"]})
    with pytest.raises(InputError, match="the guided loss learns from classes") as caught:
        made(silent, dataset, "r", guided__weight=1)
    assert [problem.place for problem in caught.value.problems] == ["contrastive.losses.guided.weight"]
    assert isinstance(made(silent, dataset, "r", clip__weight=1).scored, ImageStage)


def test_the_expression_loss_decodes_each_spots_own_counts_for_its_own_patient(
    recipe: Recipe, dataset: PairedDataset, root: Path
) -> None:
    stage = made(recipe, dataset, root, expression__weight=1).scored
    assert isinstance(stage, ImageStage)
    assert stage.inputs
    assert stage.needs_counts
    # Fewer spots have a picture than have counts: rows of the gene stage and of this one are not the same.
    stage = replace(stage, rows=stage.rows[5::3])
    held = expression_data(stage, LocalData(dataset), torch.device("cpu"))
    assert held is not None
    patients = load_gene_encoder(stage.gene.folder.path).batches
    assert [patients[i] for i in held.batch_N.tolist()] == dataset.spots().patient[stage.rows].tolist()
    x, _ = held.gather(np.arange(len(stage.rows)))
    counts = LocalData(dataset).counts(stage.gene.panel(), stage.rows).gather(np.arange(len(stage.rows)))
    assert torch.equal(x.dense(x.x_e), counts)
    assert 0 < held.chance(torch.device("cpu")) < 10


def test_a_stage_is_found_again_by_its_losses_and_the_labels_that_guide_it(
    recipe: Recipe, dataset: PairedDataset
) -> None:
    keys = {made(recipe, dataset, "r", **settings).scored.key for settings in CASES.values()}
    assert len(keys) == len(CASES)
    excluded = sorted({label for label in dataset.spots().label.tolist() if label})[0]
    fewer = apply(recipe, {"eval.exclude_classes": [excluded]})
    for settings, same in ((CASES["guided"], False), (CASES["clip"], True)):
        assert (
            made(recipe, dataset, "r", **settings).scored.key == made(fewer, dataset, "r", **settings).scored.key
        ) is same
