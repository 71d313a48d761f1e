"""The stages without Ray: the same loop, one process, a real small cohort."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from stray import storage
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.manifest import Manifest
from stray.cohort.panel import fit_panel
from stray.config import Recipe
from stray.data.local import LocalData
from stray.errors import InputError
from stray.experiment.trials import TrialPlan
from stray.recipe import apply
from stray.stages.contrastive.run import untrained
from stray.stages.contrastive.task import embed
from stray.stages.gene.encoder import load_gene_encoder
from stray.stages.judge import JUDGED
from stray.stages.run import run_stage
from stray.stages.spec import CodesStage, GeneStage, ImageStage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.encoders_at_hand import FACTORY
from tests.support.small_cohort import prepared_cell, replace_patient, small_cell, small_recipe


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    """An image encoder that trains in no time; `test_two_runs_with_one_seed...` has the one of torchvision."""
    image = {"kind": "callable", "factory": FACTORY}
    return apply(small_recipe(folder), {"gene.epochs": 4, "contrastive.epochs": 3, "contrastive.image": image})


def losses(tracker: MemoryTracker, prefix: str) -> list[float]:
    return [value for _, value in tracker.series(f"{prefix}/step_loss")]


def test_two_runs_with_one_seed_give_the_same_loss_at_every_step_and_the_same_weights(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    recipe, found = apply(recipe, {"contrastive.image": {"kind": "torchvision"}}), []
    for name in ("first", "second"):
        made, tracker = prepared_cell(recipe, dataset, tmp_path / name), MemoryTracker()
        for stage in (made.scored.gene, made.scored):
            run_stage(stage, LocalData(dataset), LocalWorker(), tracker)
        found.append((losses(tracker, "gene"), losses(tracker, "contrastive"), made.scored.folder))
    assert found[0][:2] == found[1][:2]
    assert len(found[0][0]) == 4 * 3
    assert len(found[0][1]) == 3 * 2
    weights = [folder.read_weights("encoder.pt") for _, _, folder in found]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_stage_that_is_judged_has_the_weights_of_one_that_is_not(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    found = []
    for name, scheduler in (("plain", "none"), ("judged", "asha")):
        searched = apply(recipe, {"search.held_out": ["P1"], "search.validation": ["P2"]})
        searched = apply(searched, {"search.scheduler": {"kind": scheduler}})
        plan = TrialPlan.of(searched, dataset, str(tmp_path / name))
        (made,) = plan.cells({})
        panel = Path(made.scored.gene.panel_path)
        panel.parent.mkdir(parents=True)
        panel.write_text(fit_panel(dataset, made.fold.train, made.scored.gene.config.panel).to_json())
        for stage in (made.scored.gene, made.scored):
            run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
        found.append(made.scored)
    plain, judged = found
    assert plain.key == judged.key
    weights = [stage.folder.read_weights("encoder.pt") for stage in found]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    histories = [stage.folder.read_json("history.json") for stage in found]
    assert [JUDGED in epoch for epoch in histories[0]] == [False, False, False]
    assert [JUDGED in epoch for epoch in histories[1]] == [True, True, False], "its last epoch is scored, not judged"
    assert all(0 <= epoch[JUDGED] <= 1 for epoch in histories[1][:2])


class RewritingWorker(LocalWorker):
    """Makes the dataset anew while it trains."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def report(self, metrics, state) -> None:
        super().report(metrics, state)
        replace(Manifest.load(self._path), digest="another").save(self._path)


def test_a_stage_whose_dataset_is_made_anew_meanwhile_is_refused_and_keeps_nothing(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    opened = PairedDataset.open(str(shutil.copytree(dataset.path, tmp_path / "dataset")))
    made = prepared_cell(recipe, opened, tmp_path / "runs")
    run_stage(made.scored.gene, LocalData(opened), LocalWorker(), MemoryTracker())
    with pytest.raises(InputError, match="rewritten while this command read it"):
        run_stage(made.scored, LocalData(opened), RewritingWorker(opened.path), MemoryTracker())
    assert made.scored.gene.folder.is_done()
    assert not storage.exists(made.scored.folder.path)


class Interrupted(Exception):
    pass


class FailingWorker(LocalWorker):
    """Ends with an error right after a checkpoint."""

    def __init__(self, checkpoint: Path, after: int) -> None:
        super().__init__(checkpoint)
        self._after = after

    def report(self, metrics, state) -> None:
        super().report(metrics, state)
        if metrics["epoch"] == self._after:
            raise Interrupted


AVERAGED = {"contrastive.optim.ema_decay": 0.99, "contrastive.optim.layer_decay": 0.5}


@pytest.mark.parametrize(
    ("which", "changes"),
    [("gene", {}), ("contrastive", {}), ("contrastive", AVERAGED)],
    ids=["gene", "contrastive", "contrastive with an average of the weights and rates by layer"],
)
def test_an_interrupted_stage_goes_on_from_its_checkpoint_to_the_same_weights(
    which: str, changes: dict[str, float], recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    recipe = apply(recipe, changes)
    whole, broken = (
        prepared_cell(recipe, dataset, tmp_path / "whole"),
        prepared_cell(recipe, dataset, tmp_path / "broken"),
    )
    data, name = LocalData(dataset), "weights.pt" if which == "gene" else "encoder.pt"
    for made in (whole, broken):
        if which == "contrastive":
            run_stage(made.scored.gene, data, LocalWorker(), MemoryTracker())
    stages = [made.scored.gene if which == "gene" else made.scored for made in (whole, broken)]
    run_stage(stages[0], data, LocalWorker(), MemoryTracker())
    with pytest.raises(Interrupted):
        run_stage(stages[1], data, FailingWorker(tmp_path / "state.pt", after=2), MemoryTracker())
    assert not stages[1].folder.is_done()
    tracker = MemoryTracker()
    run_stage(stages[1], data, LocalWorker(tmp_path / "state.pt"), tracker)
    assert next(step for step, _ in tracker.series(f"{which}/loss")) == 3
    expected, found = (stage.folder.read_weights(name) for stage in stages)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_the_image_encoder_that_is_kept_and_embeds_is_the_average_where_one_is_kept(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    stage = prepared_cell(apply(recipe, AVERAGED), dataset, tmp_path).scored
    assert isinstance(stage, ImageStage)
    data, worker = LocalData(dataset), LocalWorker(tmp_path / "state.pt")
    run_stage(stage.gene, data, LocalWorker(), MemoryTracker())
    run_stage(stage, data, worker, MemoryTracker())
    state = worker.restore()
    assert state is not None
    kept = stage.folder.read_weights("encoder.pt")
    for name, value in kept.items():
        assert torch.equal(value, state["average"]["weights"][f"image_encoder.{name}"]), name
    assert any(not torch.equal(value, state["module"][f"image_encoder.{name}"]) for name, value in kept.items())
    encoder = untrained(stage.config.image, 0)
    encoder.load_state_dict(kept)
    features_ND = embed(encoder.to(memory_format=torch.channels_last), data.patches(stage.embed_rows), worker.device)
    np.testing.assert_allclose(stage.folder.read_array("features.npy"), features_ND.numpy(), rtol=1e-5, atol=1e-5)


def test_a_finished_stage_is_not_run_again(recipe: Recipe, dataset: PairedDataset, tmp_path: Path) -> None:
    made = prepared_cell(recipe, dataset, tmp_path)
    run_stage(made.scored.gene, LocalData(dataset), LocalWorker(), MemoryTracker())
    tracker = MemoryTracker()
    run_stage(made.scored.gene, LocalData(dataset), LocalWorker(), tracker)
    assert tracker.history == []


def test_epochs_report_what_a_person_wants_to_see(recipe: Recipe, dataset: PairedDataset, tmp_path: Path) -> None:
    made, tracker = prepared_cell(recipe, dataset, tmp_path), MemoryTracker()
    for stage in (made.scored.gene, made.scored):
        run_stage(stage, LocalData(dataset), LocalWorker(), tracker)
    for prefix in ("gene", "contrastive"):
        for name in ("loss", "learning_rate", "spots_per_second", "waiting_for_data_share", "gradient_norm"):
            assert len(tracker.series(f"{prefix}/{name}")) > 0, name
    elbo = tracker.series("gene/validation_elbo")
    assert elbo[-1][1] > elbo[0][1]
    assert tracker.series("contrastive/chance_loss")[0][1] == pytest.approx(np.log(32))


def test_nothing_that_is_fitted_depends_on_the_held_out_patient(
    folder: Path, dataset: PairedDataset, tmp_path: Path
) -> None:
    """The held-out patient's counts, labels and pictures are replaced by others: panel, weights and codes stay."""
    other = tmp_path / "other"
    changed = apply(small_recipe(folder), {"dataset": str(other)})
    shutil.copytree(folder / "dataset", other)
    replace_patient(other, "P1", "P2")
    found = []
    for path, root in ((dataset.path, "a"), (str(other), "b")):
        data = PairedDataset.open(path)
        made = prepared_cell(changed, data, tmp_path / root)
        for stage in (made.scored.gene, made.scored):
            run_stage(stage, LocalData(data), LocalWorker(), MemoryTracker())
        found.append(made)
    assert found[0].scored.gene.panel() == found[1].scored.gene.panel()
    for folders, name in (
        ([m.scored.gene.folder for m in found], "weights.pt"),
        ([m.scored.folder for m in found], "encoder.pt"),
    ):
        first, second = (f.read_weights(name) for f in folders)
        assert all(torch.equal(first[key], second[key]) for key in first)
    features = [m.scored.folder.read_array("features.npy") for m in found]
    assert not np.array_equal(features[0][:40], features[1][:40])
    np.testing.assert_array_equal(features[0][40:], features[1][40:])


def test_a_cell_without_pairs_is_refused_by_name(recipe: Recipe, dataset: PairedDataset, tmp_path: Path) -> None:
    from stray.cohort.split import Fold
    from stray.experiment.cells import cell

    with pytest.raises(InputError, match="0 spots of the training patients have both a picture and counts"):
        cell(recipe, dataset, Fold("x", ("P1",), ()), 0, str(tmp_path), method="clip_scvi")


def test_a_gene_stage_is_found_again_by_everything_that_went_into_it(recipe: Recipe, dataset: PairedDataset) -> None:
    def gene(changed: Recipe) -> GeneStage:
        return small_cell(changed, dataset, root="r").scored.gene

    base = gene(recipe)
    assert base.key == gene(apply(recipe, {"contrastive.optim.lr": 0.5, "run.max_failures": 9})).key
    for change in ({"gene.model.n_latent": 6}, {"gene.panel.n_genes": 50}, {"gene.batch_key": "section"}):
        assert base.key != gene(apply(recipe, change)).key


def test_a_batch_is_whatever_a_column_of_the_sections_says(folder: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "sections.csv").write_text("section,lab\nP1S1,north\nP2S1,north\nP3S1,south\n")
    changes = {"ingest.sections": str(tmp_path / "sections.csv"), "dataset": str(tmp_path / "dataset")}
    changed = apply(recipe, {**changes, "gene.batch_key": "lab"})
    build_dataset(changed.ingest, changed.dataset)
    dataset = PairedDataset.open(changed.dataset)
    stage = prepared_cell(changed, dataset, tmp_path / "runs").scored.gene
    assert set(zip(dataset.spots().patient[stage.rows], stage.batch, strict=True)) == {("P2", "north"), ("P3", "south")}
    run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
    assert load_gene_encoder(stage.folder.path).batches == ("north", "south")
    with pytest.raises(InputError, match=r"gene\.batch_key: no section .*'labs'\n.*did you mean `lab`"):
        small_cell(apply(changed, {"gene.batch_key": "labs"}), dataset, root="r")


def test_the_folders_of_stages_hold_the_curves_that_were_sent_as_they_went(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    from stray.on_ray.score import curve_points

    class Curves:
        points: ClassVar[list[tuple[str, int, float]]] = []

        def curves(self, points: list[tuple[str, int, float]]) -> None:
            self.points.extend(points)

    made, live = prepared_cell(recipe, dataset, tmp_path), MemoryTracker()
    for stage in (made.scored.gene, made.scored):
        run_stage(stage, LocalData(dataset), LocalWorker(), live)
    (kept := Curves()).curves(curve_points(made))
    # To the last digit, or the store would take them for other values.
    sent = {(name, step, value) for step, values in live.history for name, value in values.items()}
    assert set(kept.points) <= sent
    assert len(set(kept.points)) == len(kept.points)
    assert {name for name, _, _ in sent - set(kept.points)} <= {"gene/epochs_at_chance", "contrastive/epochs_at_chance"}
    assert {name for name, _, _ in kept.points} >= {"gene/elbo", "gene/step_loss", "contrastive/step_loss"}


@pytest.mark.parametrize("kind", ["scanvi", "pca", "log_counts"])
def test_every_gene_model_codes_the_held_out_patient_from_its_folder(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, kind: str
) -> None:
    made = prepared_cell(apply(recipe, {"gene.model.kind": kind}), dataset, tmp_path)
    codes = CodesStage(gene=made.scored.gene, embed_rows=np.arange(len(dataset)), root=str(tmp_path))
    for stage in (made.scored.gene, codes):
        run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
    encoder = load_gene_encoder(made.scored.gene.folder.path)
    features = codes.folder.read_array("features.npy")
    assert features.shape == (len(dataset), encoder.model.dim)
    own = made.scored.gene.folder.read_array("codes.npy")
    np.testing.assert_allclose(features[made.scored.gene.rows], own, rtol=1e-4, atol=1e-5)
    assert bool(encoder.classes) is (kind == "scanvi")


def test_scanvi_starts_from_a_scvi_stage_that_is_a_stage_of_its_own(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    changed = apply(recipe, {"gene.model": {"kind": "scanvi", "scvi_epochs": 3}})
    gene = prepared_cell(changed, dataset, tmp_path).scored.gene
    plain = small_cell(
        apply(recipe, {"gene.epochs": 3, "gene.model": {"kind": "scvi"}}), dataset, root=str(tmp_path)
    ).scored.gene
    assert gene.start is not None
    assert gene.start.key == plain.key
    tracker = MemoryTracker()
    for stage in (gene.start, gene):
        run_stage(stage, LocalData(dataset), LocalWorker(), tracker)
    elbo = [value for _, value in tracker.series("gene/reconstruction")]
    assert len(elbo) == 3 + 4
    assert elbo[3] < elbo[0]  # it goes on where scVI ended
    assert "label_accuracy" in gene.folder.read_json("history.json")[0]
    classes = gene.folder.read_json("config.json")["classes"]
    assert gene.folder.read_array("probabilities.npy").shape == (len(gene.rows), len(classes))


def test_scanvi_without_any_label_is_refused_with_the_remedy(recipe: Recipe, dataset: PairedDataset) -> None:
    changed = apply(recipe, {"gene.model.kind": "scanvi", "eval.label_sources.train": ["nobody"]})
    with pytest.raises(InputError, match="no training patient has a label that may train"):
        small_cell(changed, dataset, root="r")


def test_the_stage_stops_early_keeps_the_best_weights_and_a_resumed_run_does_not_go_on(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    changed = apply(recipe, {"gene.epochs": 200, "gene.patience": 2, "gene.keep": "best", "gene.optim.lr": 0.05})
    changed = apply(changed, {"gene.model.kl_warmup_share": 0.0})
    stage, worker = prepared_cell(changed, dataset, tmp_path).scored.gene, LocalWorker(tmp_path / "state.pt")
    run_stage(stage, LocalData(dataset), worker, MemoryTracker())
    history = stage.folder.read_json("history.json")
    elbo = [epoch["validation_elbo"] for epoch in history]
    assert 3 <= len(elbo) < 200
    assert int(np.argmax(elbo)) == len(elbo) - 3
    shutil.rmtree(stage.folder.path)
    tracker = MemoryTracker()
    run_stage(stage, LocalData(dataset), worker, tracker)
    assert tracker.series("gene/loss") == []
    assert stage.folder.read_json("history.json") == history


@pytest.mark.parametrize("setting", [{"gene.patience": 2}, {"gene.keep": "best"}, {"gene.optim.schedule": "plateau"}])
def test_a_setting_that_watches_held_out_spots_is_refused_where_none_can_be_held_out(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, setting: dict
) -> None:
    made = prepared_cell(apply(recipe, {"gene.validation_share": 0.001, **setting}), dataset, tmp_path)
    with pytest.raises(InputError, match="every patient is too small to hold one out") as caught:
        run_stage(made.scored.gene, LocalData(dataset), LocalWorker(), MemoryTracker())
    assert [problem.place for problem in caught.value.problems] == list(setting)


def test_without_spots_to_hold_out_the_stage_trains_to_its_last_epoch(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    stage = prepared_cell(apply(recipe, {"gene.validation_share": 0.001}), dataset, tmp_path).scored.gene
    run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
    assert len(stage.folder.read_json("history.json")) == 4


def test_more_components_than_spots_are_refused(recipe: Recipe, dataset: PairedDataset, tmp_path: Path) -> None:
    changed = apply(recipe, {"gene.model": {"kind": "pca", "n_latent": 5000}})
    with pytest.raises(InputError, match=r"5000 components of \d+ training spots"):
        run_stage(
            prepared_cell(changed, dataset, tmp_path).scored.gene, LocalData(dataset), LocalWorker(), MemoryTracker()
        )


# torch looks at what is no leaf itself, and hides its warning, but not from a filter that makes it an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_losses(recipe: Recipe, dataset: PairedDataset, tmp_path: Path) -> None:
    found = []
    for compiled in (False, True):
        made, tracker = prepared_cell(apply(recipe, {"gene.compile": compiled}), dataset, tmp_path), MemoryTracker()
        run_stage(made.scored.gene, LocalData(dataset), LocalWorker(), tracker)
        found.append(losses(tracker, "gene"))
    assert len(found[1]) == 4 * 3
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
