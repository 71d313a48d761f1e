"""Every kind of tower, of head, and of what is trained, on a real small cohort, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import fit_panel
from stray.config import AugmentConfig, PatchConfig, Recipe, TrainableNoneConfig
from stray.data.local import LocalData
from stray.data.source import PatchSource
from stray.errors import InputError
from stray.models.image_encoder import ImageEncoder
from stray.models.towers import FrozenCodes, TunedTower, image_coder, kept_projection
from stray.noise import Noise, key
from stray.recipe import apply
from stray.stages.contrastive import exported as model_folder
from stray.stages.contrastive.augment import augment
from stray.stages.contrastive.frozen_features import FrozenFeatures
from stray.stages.contrastive.gene_inputs import GeneInput, tower_input
from stray.stages.contrastive.task import ContrastiveTask, PatchInput, embed
from stray.stages.run import run_stage
from stray.stages.spec import ImageStage
from stray.track.tracker import MemoryTracker
from stray.training.loop import fit
from stray.training.state import TrainState
from stray.training.worker import LocalWorker
from tests.support.encoders_at_hand import FACTORY
from tests.support.small_cohort import prepared_cell, small_cell, small_recipe

OFF = {name: 1.0 if name == "crop_area" else 0 for name in AugmentConfig.__dataclass_fields__}
OFF |= {"flips": False, "rotations": False}
TRAINS: dict[str, dict[str, Any]] = {
    "all": {"kind": "all"},
    "the last stage": {"kind": "last_stage"},
    "adapters": {"kind": "adapters", "rank": 2},
    "nothing, views": {"kind": "none", "cached_views": 2},
}


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    """An image encoder of someone's own with dropout, stochastic depth and batch norm; two steps an epoch."""
    image = {"kind": "callable", "factory": FACTORY, "options": {"drop": 0.1}}
    return apply(small_recipe(folder), {"contrastive.image": image, "contrastive.epochs": 2, "methods": {"m": {}}})


@pytest.fixture(scope="module")
def stage_of(recipe: Recipe, dataset: PairedDataset, folder: Path) -> Callable[..., ImageStage]:
    """The contrastive stage of a recipe with some settings changed, once its gene stage is done; all share a folder."""

    def made(changes: dict[str, Any] | None = None, root: str = "stages") -> ImageStage:
        cell = small_cell(apply(recipe, changes or {}), dataset, root=str(folder / root))
        scored, panel = cell.scored, Path(cell.scored.gene.panel_path)
        assert isinstance(scored, ImageStage)
        if not panel.exists():
            panel.parent.mkdir(parents=True, exist_ok=True)
            panel.write_text(fit_panel(dataset, cell.fold.train, scored.gene.config.panel).to_json())
        run_stage(scored.gene, LocalData(dataset), LocalWorker(), MemoryTracker())
        return scored

    return made


def run(stage: ImageStage, dataset: PairedDataset, worker: LocalWorker | None = None) -> list[dict[str, float]]:
    run_stage(stage, LocalData(dataset), worker or LocalWorker(), MemoryTracker())
    return stage.folder.read_json("history.json")


def task_of(stage: ImageStage, dataset: PairedDataset) -> ContrastiveTask:
    genes, tuned = tower_input(stage, LocalData(dataset))
    patches = LocalData(dataset).patches(stage.rows)
    return ContrastiveTask(
        stage.config, PatchInput(patches), GeneInput(genes, tuned), seed=0, device=torch.device("cpu")
    )


@pytest.mark.parametrize("name", TRAINS)
def test_what_a_stage_leaves_codes_new_pictures_as_it_did(
    name: str, stage_of: Callable[..., ImageStage], dataset: PairedDataset, tmp_path: Path
) -> None:
    stage = stage_of({"contrastive.trainable": TRAINS[name]})
    history = run(stage, dataset)
    assert len(history) == 2
    assert all(np.isfinite(value) for epoch in history for value in epoch.values())
    features_ND = stage.folder.read_array("features.npy")
    projection = kept_projection(stage.config)
    assert features_ND.shape == (len(dataset), 8 if projection is None else 16)
    state = stage.folder.read_weights("encoder.pt")
    assert not any("parametrizations" in key for key in state)
    patch = PatchConfig(size_um=112, size_px=32)
    model_folder.save(str(tmp_path / "model"), state, stage.config.image, projection, None, patch, "", {})
    loaded = model_folder.load(str(tmp_path / "model"), trust_code=True)
    block = LocalData(dataset).patches(stage.embed_rows).gather(np.arange(len(stage.embed_rows)))
    found_ND = loaded.features(block.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(found_ND, features_ND, rtol=1e-4, atol=1e-5)
    if projection is not None:
        np.testing.assert_allclose(np.linalg.norm(found_ND, axis=1), 1, rtol=1e-5)


def test_two_stages_that_train_different_parts_are_kept_apart(stage_of: Callable[..., ImageStage]) -> None:
    assert len({stage_of({"contrastive.trainable": trains}).key for trains in TRAINS.values()}) == len(TRAINS)


def test_only_adapters_and_heads_move_and_the_encoder_is_changed_by_their_rank(
    stage_of: Callable[..., ImageStage], dataset: PairedDataset
) -> None:
    stage = stage_of({"contrastive.trainable": TRAINS["adapters"]})
    start = task_of(stage, dataset).module.coder().state_dict()
    run(stage, dataset)
    for name, value in stage.folder.read_weights("encoder.pt").items():
        if value.dim() > 1:
            change = (value - start[name]).flatten(1)
            assert change.abs().max() > 0, name
            assert torch.linalg.matrix_rank(change.double(), rtol=1e-3) <= 2, name
        else:
            assert torch.equal(value, start[name]), name


CHUNK = 32
"""Patches that are coded together: the 80 spots of the stage take three rounds, the last of them smaller."""


class EveryStep(FrozenFeatures):
    """Features of a frozen encoder, computed anew whenever they are asked for."""

    def __init__(self, encoder: ImageEncoder, patches: PatchSource, config: AugmentConfig, views: int) -> None:
        self._encoder, self._patches, self._config, self._n_views, self._seed = (
            encoder.eval(),
            patches,
            config,
            views,
            0,
        )
        self._views_KNF = torch.empty(max(1, views), len(patches), 0)

    @torch.no_grad()
    def gather(self, positions: np.ndarray, epoch: int) -> Tensor:
        found = []
        for position, view in zip(positions.tolist(), self.view(epoch)[positions].tolist(), strict=True):
            patch = self._patches.gather(np.array([position]))
            if self._n_views:
                chunk, place = divmod(position, CHUNK)
                count = min(CHUNK, len(self._patches) - CHUNK * chunk)
                patch = augment(
                    patch, self._config, Noise(key(0, "cached views"), view, chunk, count, slice(place, place + 1))
                )
            found.append(self._encoder(patch))
        return torch.cat(found)


@pytest.mark.parametrize("views", [0, 3], ids=["the patch itself", "three views"])
def test_frozen_features_equal_those_computed_at_every_step(
    views: int, stage_of: Callable[..., ImageStage], dataset: PairedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stray.stages.contrastive.frozen_features.CHUNK", CHUNK)
    changes = {"contrastive.trainable": {"kind": "none", "cached_views": views}, "contrastive.epochs": 3}
    stage = stage_of(changes | ({} if views else {"contrastive.augment": OFF}))
    found = []
    for every_step in (False, True):
        task = task_of(stage, dataset)
        if every_step:
            encoder, patches = task.module.encoder, LocalData(dataset).patches(stage.rows)
            task._features = EveryStep(encoder, patches, stage.config.augment, views)
        tracker = MemoryTracker()
        state = fit(
            task,
            stage.config.optim,
            worker=LocalWorker(),
            tracker=tracker,
            prefix="contrastive",
            seed=0,
        )
        weights = torch.cat([value.flatten().double() for value in state.module.state_dict().values()])
        found.append(([loss for _, loss in tracker.series("contrastive/step_loss")], weights))
    assert len(found[0][0]) == 3 * 2
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_a_frozen_encoder_stays_and_is_in_no_checkpoint(
    stage_of: Callable[..., ImageStage], dataset: PairedDataset
) -> None:
    stage = stage_of({"contrastive.trainable": TRAINS["nothing, views"]})
    task = task_of(stage, dataset)
    state = TrainState.start(task.module, stage.config.optim).state_dict()
    assert not any(name.startswith("image_encoder") for name in state["module"])
    run(stage, dataset)
    kept = stage.folder.read_weights("encoder.pt")
    before = {name: value.clone() for name, value in task.module.coder().state_dict().items()}
    assert kept.keys() == before.keys()
    moved = {name for name in kept if not torch.equal(kept[name], before[name])}
    assert moved == {"head.weight", "head.bias"}


def test_views_are_drawn_by_seed_epoch_and_spot(stage_of: Callable[..., ImageStage], dataset: PairedDataset) -> None:
    stage = stage_of({"contrastive.trainable": TRAINS["nothing, views"]})
    features = task_of(stage, dataset)._features
    assert features is not None
    first, second = features.view(0), features.view(1)
    assert set(first.tolist()) == {0, 1}
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(features.view(0), first)
    places = np.array([5, 2, 60])
    whole = features.gather(np.arange(len(stage.rows)), 1)
    assert torch.equal(features.gather(places, 1), whole[places])
    assert not torch.equal(features.gather(np.arange(len(stage.rows)), 0), whole)


class Interrupted(Exception):
    pass


class FailingWorker(LocalWorker):
    """Ends with an error right after its first checkpoint."""

    def report(self, metrics, state) -> None:
        super().report(metrics, state)
        raise Interrupted


@pytest.mark.parametrize("name", ["the last stage", "adapters", "nothing, views"])
def test_an_interrupted_stage_ends_with_the_same_weights(
    name: str, stage_of: Callable[..., ImageStage], dataset: PairedDataset, tmp_path: Path
) -> None:
    changes = {"contrastive.trainable": TRAINS[name], "contrastive.optim.ema_decay": 0.9}
    whole, broken = stage_of(changes), stage_of(changes, root="broken")
    run(whole, dataset)
    with pytest.raises(Interrupted):
        run(broken, dataset, FailingWorker(tmp_path / "state.pt"))
    run(broken, dataset, LocalWorker(tmp_path / "state.pt"))
    expected, found = (stage.folder.read_weights("encoder.pt") for stage in (whole, broken))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_tuned_gene_tower_starts_at_the_frozen_codes_and_learns_at_its_own_rate(
    stage_of: Callable[..., ImageStage], dataset: PairedDataset
) -> None:
    stage = stage_of({"contrastive.gene_tower": {"kind": "tuned", "lr_multiplier": 0.25}})
    assert stage.inputs
    assert stage.needs_counts
    assert stage.key != stage_of().key
    counts, tuned = tower_input(stage, LocalData(dataset))
    codes, nothing = tower_input(stage_of(), LocalData(dataset))
    assert isinstance(codes, Tensor)
    assert isinstance(tuned, TunedTower)
    assert not isinstance(counts, Tensor)
    assert nothing is None
    frozen = FrozenCodes(codes.shape[1])
    frozen.fit(codes)
    x = counts.gather(np.arange(len(stage.rows)))
    torch.testing.assert_close(tuned.eval()(x), frozen(codes), rtol=1e-4, atol=1e-4)
    task = task_of(stage, dataset)
    state = TrainState.start(task.module, stage.config.optim)
    shares = {id(p): group["lr"] / stage.config.optim.lr for group in state.optimizer.param_groups
              for p in group["params"]}  # fmt: skip
    rates = {name: shares[id(p)] for name, p in task.module.named_parameters() if p.requires_grad}
    assert {rate for name, rate in rates.items() if name.startswith("gene_tower.")} == {0.25}
    assert {rate for name, rate in rates.items() if not name.startswith("gene_tower.")} == {1.0}
    assert not any("log_variance" in name for name in rates)


def test_a_tuned_gene_tower_is_trained_and_leaves_the_gene_stage_as_it_was(
    stage_of: Callable[..., ImageStage], dataset: PairedDataset
) -> None:
    stage = stage_of({"contrastive.gene_tower": {"kind": "tuned", "lr_multiplier": 1.0}})
    before = stage.gene.folder.read_weights("weights.pt")
    worker = LocalWorker()
    task = task_of(stage, dataset)
    fit(task, stage.config.optim, worker=worker, tracker=MemoryTracker(), prefix="contrastive", seed=0)
    tower = task.module.gene_tower
    assert isinstance(tower, TunedTower)
    moved = {name for name, value in tower.encoder.state_dict().items()
             if not torch.equal(value, before[f"encoder.{name}"])}  # fmt: skip
    still = {"log_variance.weight", "log_variance.bias"}
    assert moved == tower.encoder.state_dict().keys() - still
    run(stage, dataset)
    after = stage.gene.folder.read_weights("weights.pt")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_codes_of_pca_are_a_frozen_gene_tower(stage_of: Callable[..., ImageStage], dataset: PairedDataset) -> None:
    stage = stage_of({"gene.model": {"kind": "pca", "n_latent": 5}, "contrastive.epochs": 4})
    codes, _ = tower_input(stage, LocalData(dataset))
    assert isinstance(codes, Tensor)
    assert codes.shape == (len(stage.rows), 5)
    history = run(stage, dataset)
    assert history[-1]["loss"] < history[0]["loss"]


def test_without_heads_the_towers_meet_where_they_have_as_many_features(
    stage_of: Callable[..., ImageStage], dataset: PairedDataset
) -> None:
    changes = {"contrastive.projection.kind": "none", "contrastive.gene_tower": {"kind": "mlp", "n_hidden": 8}}
    stage = stage_of(changes)
    task = task_of(stage, dataset)
    assert not [name for name, _ in task.module.named_parameters() if "head" in name]
    assert len(run(stage, dataset)) == 2
    other = stage_of({"contrastive.projection.kind": "none"})
    with pytest.raises(InputError, match="the image encoder has 8 features, the gene tower 5") as caught:
        run(other, dataset)
    assert "n_latent" in caught.value.problems[0].remedy


def test_an_untrained_encoder_of_someones_own_is_embedded(recipe: Recipe, dataset: PairedDataset, folder: Path) -> None:
    stage = prepared_cell(recipe, dataset, folder / "untrained", train=False).scored
    assert isinstance(stage, ImageStage)
    run(stage, dataset)
    coder = image_coder(stage.config.image, None)
    coder.load_state_dict(stage.folder.read_weights("encoder.pt"))
    features_ND = embed(coder, LocalData(dataset).patches(stage.embed_rows), torch.device("cpu"))
    np.testing.assert_allclose(stage.folder.read_array("features.npy"), features_ND.numpy(), rtol=1e-5, atol=1e-6)


def test_patches_that_an_encoder_cannot_take_are_refused_before_anything_is_trained(
    stage_of: Callable[..., ImageStage], dataset: PairedDataset
) -> None:
    stage = stage_of({"contrastive.image": {"kind": "torchvision", "name": "alexnet"}})
    for one in (stage, replace(stage, train=False)):
        with pytest.raises(InputError, match="alexnet cannot code patches of 32 x 32 pixels"):
            run(one, dataset)


def test_settings_that_change_patches_are_known() -> None:
    assert AugmentConfig(**OFF).acting == ()  # type: ignore[arg-type]
    assert set(AugmentConfig().acting) == {"flips", "rotations", "brightness", "contrast", "saturation", "hue"}
    assert AugmentConfig(**OFF | {"crop_area": 0.5}).acting == ("crop_area",)  # type: ignore[arg-type]
    assert TrainableNoneConfig().cached_views == 0


@pytest.mark.parametrize("tower", ["frozen", "tuned", "mlp"])
@pytest.mark.parametrize("name", ["adapters", "nothing, views"])
def test_held_out_spots_are_sought_with_whatever_is_trained(
    stage_of: Callable[..., ImageStage], dataset: PairedDataset, name: str, tower: str
) -> None:
    changes = {
        "contrastive.trainable": TRAINS[name],
        "contrastive.gene_tower.kind": tower,
        "contrastive.validation_share": 0.25,
    }
    for epoch in run(stage_of(changes, root=f"sought {name} {tower}"), dataset):
        assert 1 <= epoch["validation_median_rank_image_to_gene"] <= 20
        assert epoch["image_spread"] > 0
