"""Recipes: what is given arrives, and what is wrong is named, all of it at once."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stray.config import ChoiceConfig, FrozenTowerConfig, MethodConfig, MlpTowerConfig, Recipe
from stray.errors import InputError
from stray.recipe import apply, decode, dump_yaml, flatten, for_method, load_recipe, shipped_recipes, unflatten
from stray.recipe.describe import json_schema
from stray.recipe.schema import plain

SHIPPED = sorted(shipped_recipes())
VARIANTS = [
    [],
    ["contrastive.gene_tower.kind=mlp", "contrastive.gene_tower.n_hidden=64"],
    ["contrastive.losses={clip: {weight: 0}, siglip: {weight: 1, bias: -1e1}, guided: {weight: 0.5}, chunk: 64}"],
    [
        "ingest.sources=[{kind: synthetic, seed: 3}, {kind: h5ad, path: x.h5ad}]",
        "ingest.labels=[{name: w, path: l.csv}]",
    ],
    ["methods.extra.set={contrastive.optim.lr: 1e-4, gene.model.likelihood: nb}", "methods.clip_mlp=null"],
    ["search.space={contrastive.batch_size: {kind: int, low: 16, high: 64}}", "gene.optim.clip_norm=1.5"],
    ["search.space={contrastive.gene_tower.kind: {kind: choice, values: [frozen, mlp]}}", "run.workers=2"],
    ["folds={kind: none}", "run.gpu=false", "track.uri='http://localhost:5000'", "name='1e-4'", "seeds=[2, 1]"],
    ["eval.exclude_classes=['no', 'null', '12', '1e5', '~', 'true', '2020-01-01', 'ö: #x']"],
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=lambda overrides: " ".join(overrides)[:40] or "unchanged")
@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_survives_flattening_and_yaml(name: str, overrides: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(name, overrides)
    assert decode(unflatten(flatten(recipe))) == recipe
    assert apply(recipe, flatten(recipe)) == recipe
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe
    # Flat names and values are what MLflow and JSON can hold.
    assert json.loads(json.dumps(flatten(recipe))) == flatten(recipe)


def test_random_changes_survive_flattening() -> None:
    rng = np.random.default_rng(0)
    draw: dict[str, Any] = {
        "gene.epochs": lambda: int(rng.integers(1, 1000)),
        "gene.optim.lr": lambda: float(10 ** rng.uniform(-12, 2)),
        "contrastive.losses.clip.temperature": lambda: float(rng.uniform(0.02, 2)),
        "contrastive.gene_tower.kind": lambda: str(rng.choice(["mlp", "frozen"])),
        "eval.probe_c": lambda: sorted({float(value) for value in rng.uniform(1e-5, 10, 4)}),
        "folds.held_out": lambda: [f"P{number}" for number in rng.permutation(6)[:3]],
        "run.gpu": lambda: [True, False, "auto"][rng.integers(3)],
        "track.experiment": lambda: [None, "0x10", "1_000", "a: b"][rng.integers(4)],
    }
    for _ in range(50):
        names = rng.permutation(sorted(draw))[: rng.integers(1, len(draw) + 1)]
        recipe = apply(Recipe(), {name: draw[name]() for name in names})
        assert decode(unflatten(flatten(recipe))) == recipe
        assert decode(yaml.safe_load(dump_yaml(recipe))) == recipe


def test_no_recipe_is_the_defaults() -> None:
    assert load_recipe(None) == Recipe()
    assert decode({}) == Recipe()


def test_a_group_given_in_part_keeps_the_defaults_of_its_place() -> None:
    # The gene stage's optimiser differs from OptimConfig's own defaults.
    recipe = decode({"gene": {"optim": {"lr": 0.5}}})
    assert recipe.gene.optim.eps == Recipe().gene.optim.eps == 0.01
    assert recipe.gene.optim.lr == 0.5


def test_numbers_without_a_point_are_numbers() -> None:
    assert load_recipe(None, ["contrastive.optim.lr=1e-4"]).contrastive.optim.lr == 1e-4
    # PyYAML reads text here.
    assert decode(yaml.safe_load("contrastive: {optim: {lr: 1e-4}}")).contrastive.optim.lr == 1e-4
    space = load_recipe(
        None, ["search.space={contrastive.optim.lr: {kind: choice, values: [1e-4, 1e-3]}}"]
    ).search.space
    assert space["contrastive.optim.lr"] == ChoiceConfig(values=(1e-4, 1e-3))


def test_another_kind_replaces_everything_under_it() -> None:
    recipe = load_recipe(None, ["contrastive.gene_tower.n_hidden=64", "contrastive.gene_tower.kind=mlp"])
    assert recipe.contrastive.gene_tower == MlpTowerConfig(n_hidden=64), "the order of overrides does not matter"
    frozen = apply(recipe, {"contrastive.gene_tower.kind": "frozen"})
    assert frozen.contrastive.gene_tower == FrozenTowerConfig()
    assert apply(frozen, {"contrastive.gene_tower.kind": "mlp"}).contrastive.gene_tower == MlpTowerConfig()
    assert apply(recipe, {"contrastive.gene_tower.kind": "mlp"}) == recipe, "the same kind changes nothing"
    held_out = load_recipe(None, ["folds.held_out=[A]"])
    assert apply(held_out, {"folds.kind": "none"}).folds.held_out == ()


def test_overrides_reach_names_lists_and_dotted_keys() -> None:
    recipe = load_recipe(
        None,
        [
            "methods.more.train=nothing",
            "methods.clip_scvi.set.contrastive.optim.lr=0.1",
            "search.space.contrastive.optim.lr.low=0.002",
            "search.space.contrastive.projection.size=null",
            "ingest.sources=[{kind: synthetic}]",
            "ingest.sources.0.seed=7",
        ],
    )
    assert list(recipe.methods) == ["untrained", "clip_mlp", "clip_scvi", "more"]
    assert recipe.methods["clip_scvi"] == MethodConfig(set={"contrastive.optim.lr": 0.1})
    assert recipe.search.space["contrastive.optim.lr"].low == 0.002  # type: ignore[union-attr]
    assert "contrastive.projection.size" not in recipe.search.space
    assert recipe.ingest.sources[0].seed == 7  # type: ignore[union-attr]


def test_methods_in_a_file_replace_the_default_ones(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("methods: {only: {set: {gene.epochs: 3}}}\n", encoding="utf-8")
    recipe = load_recipe(str(file))
    assert list(recipe.methods) == ["only"]
    assert for_method(recipe, "only").gene.epochs == 3
    assert recipe.gene.epochs == Recipe().gene.epochs


def test_methods_whose_settings_exclude_each_other_stand_in_one_recipe() -> None:
    explains = "explains.set={contrastive.losses.expression.weight: 1}"
    recipe = load_recipe(None, [f"methods.{explains}"])  # beside clip_mlp, which has no decoder
    assert for_method(recipe, "explains").contrastive.losses.expression.weight == 1
    assert for_method(recipe, "clip_mlp", {"gene.epochs": 7}).gene.epochs == 7
    with pytest.raises(InputError, match="decoder of a frozen scVI"):
        for_method(recipe, "explains", {"gene.model.kind": "pca"})


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("# nothing yet\n", encoding="utf-8")
    assert load_recipe(str(tmp_path / "r.yaml")) == Recipe()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_loaded_recipe_carries_each_method_decoded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(name)
    bare = replace(recipe)  # the same settings, nothing resolved
    afresh = {method: for_method(bare, method) for method in recipe.methods}
    assert recipe.resolved == afresh
    assert bare == recipe
    assert not bare.resolved
    monkeypatch.setattr("stray.recipe.merge", lambda *_: pytest.fail("a method was decoded again"))
    assert all(for_method(recipe, method) is recipe.resolved[method] for method in recipe.methods)
    sent = pickle.loads(pickle.dumps(recipe))
    assert sent == recipe
    assert sent.resolved == recipe.resolved


def test_the_resolved_methods_are_no_setting() -> None:
    recipe = load_recipe("her2st")
    assert "resolved" not in plain(recipe)
    assert "resolved" not in json_schema()["properties"]
    with pytest.raises(InputError, match="resolved"):
        load_recipe("her2st", ["resolved.clip_scvi.gene.epochs=3"])
