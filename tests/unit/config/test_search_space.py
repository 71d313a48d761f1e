"""The space of a search: what it may hold, and every reason for which it is refused before anything starts."""

from __future__ import annotations

import pytest

from stray.config import QuantizedUniformConfig, SimplexConfig, WhenConfig
from stray.errors import InputError, Problem
from stray.recipe import dump_yaml, load_recipe
from stray.recipe.files import parse
from stray.recipe.space import drawing_order

CLIP, SMOOTHED = "contrastive.losses.clip.weight", "contrastive.losses.smoothed.weight"
SIMPLEX = f"weights: {{kind: simplex, paths: [{CLIP}, {SMOOTHED}]}}"
TEMPERATURE = "contrastive.losses.smoothed.temperature"


def problems_of(*overrides: str) -> dict[str, Problem]:
    with pytest.raises(InputError) as caught:
        load_recipe(None, overrides)
    return {problem.place: problem for problem in caught.value.problems}


def test_a_space_with_every_distribution_loads_and_survives_yaml() -> None:
    space = (
        f"{{{SIMPLEX}, "
        f"{TEMPERATURE}: {{kind: loguniform, low: 0.03, high: 0.3, when: {{path: {SMOOTHED}, above: 0}}}}, "
        "contrastive.augment.hue: {kind: uniform, low: 0, high: 0.1}, "
        "contrastive.augment.contrast: {kind: quniform, low: 0, high: 0.3, step: 0.1}, "
        "gene.model.n_latent: {kind: int, low: 4, high: 64, log: true}, "
        "contrastive.batch_size: {kind: int, low: 64, high: 256, step: 64}, "
        "contrastive.gene_tower.kind: {kind: choice, values: [frozen, mlp, tuned]}, "
        "contrastive.gene_tower.lr_multiplier: {kind: uniform, low: 0.1, high: 1, "
        "  when: {path: contrastive.gene_tower.kind, equals: tuned}}}"
    )
    recipe = load_recipe(None, [f"search.space={space}"])
    found = recipe.search.space
    assert found["weights"] == SimplexConfig(paths=(CLIP, SMOOTHED))
    assert found[TEMPERATURE].when == WhenConfig(path=SMOOTHED, above=0)
    assert found["contrastive.augment.contrast"] == QuantizedUniformConfig(low=0, high=0.3, step=0.1)
    order = drawing_order(found)
    assert sorted(order) == sorted(found)
    assert order.index("weights") < order.index(TEMPERATURE)
    again = parse(dump_yaml(recipe), "the dump")
    assert again["search"]["space"][TEMPERATURE]["when"] == {"path": SMOOTHED, "above": 0.0, "equals": None}


def test_settings_of_a_condition_are_set_by_their_dotted_path() -> None:
    base = [f"search.space={{{SIMPLEX}, {TEMPERATURE}: {{kind: uniform, low: 0.1, high: 0.3}}}}"]
    place = f"search.space.{TEMPERATURE}"
    recipe = load_recipe(None, [*base, f"{place}.when.path={SMOOTHED}", f"{place}.when.above=0.2", f"{place}.low=0.05"])
    assert recipe.search.space[TEMPERATURE].when == WhenConfig(path=SMOOTHED, above=0.2)
    assert recipe.search.space[TEMPERATURE].low == 0.05  # type: ignore[union-attr]
    recipe = load_recipe(None, [*base, f"{place}.when={{path: {SMOOTHED}, above: 0.2}}", f"{place}.when=null"])
    assert recipe.search.space[TEMPERATURE].when is None


@pytest.mark.parametrize(
    ("space", "place", "what", "remedy"),
    [
        ("gene.epochs: {kind: int, low: 1, high: 8, step: 2}", "gene.epochs.high", "not reached", "7 or 9"),
        ("gene.epochs: {kind: int, low: 1, high: 8, log: true, step: 2}", "gene.epochs.step", "log-uniform",
         "step to 1"),
        ("gene.seed_: {kind: int, low: 1, high: 8}", "gene.seed_", "unknown setting", ""),
        ("gene.epoch: {kind: int, low: 1, high: 8}", "gene.epoch", "unknown setting", "`gene.epochs`"),
        ("contrastive.augment.hue: {kind: quniform, low: 0, high: 0.3, step: 0.2}", "contrastive.augment.hue.high",
         "not reached", "0.2 or 0.4"),
        ("contrastive.augment.hue: {kind: quniform, low: 0, high: 0.3, step: 0}", "contrastive.augment.hue.step",
         "greater than 0", ""),
        ("contrastive.optim.lr: {kind: loguniform, low: 0, high: 1}", "contrastive.optim.lr.low", "greater than 0", ""),
        ("contrastive.optim.lr: {kind: loguniform, low: 0.1, high: 0.01}", "contrastive.optim.lr.low", "not below", ""),
        ("contrastive.optim.lr: {kind: choice, values: [0.1, -1]}", "contrastive.optim.lr", "greater than 0", ""),
        ("contrastive.augment.hue: {kind: uniform, low: -1, high: 0.1}", "contrastive.augment.hue", "greater than", ""),
        ("contrastive.augment.hue: {kind: uniform, low: 0, high: 2}", "contrastive.augment.hue", "less than", ""),
        ("contrastive.projection.size: {kind: quniform, low: 8, high: 64, step: 8}", "contrastive.projection.size",
         "whole number", "`kind: int`"),
        (f"w: {{kind: simplex, paths: [{CLIP}]}}", "w.paths", "expected at least 2", ""),
        (f"w: {{kind: simplex, paths: [{CLIP}, {CLIP}]}}", "w.paths", "more than once", "each once"),
        (f"w: {{kind: simplex, paths: [{CLIP}, {SMOOTHED}], low: 0.5}}", "w.low", "too large", "less than 0.5"),
        (f"w: {{kind: simplex, paths: [{CLIP}, contrastive.losses.smoothd.weight]}}", "w.paths.1", "unknown setting",
         "`contrastive.losses.smoothed"),
        (f"w: {{kind: simplex, paths: [{CLIP}, eval.knn_k]}}", "w.paths.1", "may change here", "only settings"),
        (f"w: {{kind: simplex, paths: [{CLIP}, contrastive.batch_size]}}", "w.paths.1", "whole number", ""),
        (f"{SIMPLEX}, {CLIP}: {{kind: uniform, low: 0, high: 1}}", CLIP, "set by 2 parameters", "one of them"),
        ("gene.epochs: {kind: int, low: 1, high: 8, when: {path: gene.model.kin, equals: pca}}",
         "gene.epochs.when.path", "no setting 'gene.model.kin'", "`gene.model.kind`"),
        ("gene.epochs: {kind: int, low: 1, high: 8, when: {path: gene.model.kind, equal: pca}}",
         "gene.epochs.when.equal", "unknown setting", "equals"),
        ("gene.epochs: {kind: int, low: 1, high: 8, when: {path: gene.model.kind}}", "gene.epochs.when", "neither",
         "above"),
        ("gene.epochs: {kind: int, low: 1, high: 8, when: {path: gene.patience, above: 1, equals: 2}}",
         "gene.epochs.when", "both", "one of them"),
        ("gene.epochs: {kind: int, low: 1, high: 8, when: {path: gene.model.kind, equals: pca}}",
         "gene.epochs.when", "never holds: gene.model.kind is scvi", "change it in the recipe"),
        (f"{SIMPLEX}, {TEMPERATURE}: {{kind: uniform, low: 0.1, high: 1, when: {{path: {SMOOTHED}, above: 1}}}}",
         f"{TEMPERATURE}.when", "no such value", "change the condition"),
        (f"{SIMPLEX}, {TEMPERATURE}: {{kind: uniform, low: 0.001, high: 1, when: {{path: {SMOOTHED}, above: 0.9}}}}",
         TEMPERATURE, "starts at a logit scale of 1000", "a higher temperature"),
        ("gene.epochs: {kind: int, low: 1, high: 8, when: {path: gene.batch_size, above: 8}}, "
         "gene.batch_size: {kind: int, low: 8, high: 64, when: {path: gene.epochs, above: 2}}",
         "gene.epochs.when.path", "circle: gene.epochs -> gene.batch_size -> gene.epochs", "remove one"),
        ("contrastive.gene_tower.lr_multiplier: {kind: uniform, low: 0, high: 1}",
         "contrastive.gene_tower.lr_multiplier", "`kind: frozen` has no such setting", "to tuned"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_searched_is_one_problem(space: str, place: str, what: str, remedy: str) -> None:
    found = problems_of(f"search.space={{{space}}}")
    assert list(found) == [f"search.space.{place}"]
    problem = found[f"search.space.{place}"]
    assert what in problem.what
    assert remedy in problem.remedy


def test_every_problem_of_a_space_is_told_at_once() -> None:
    space = (
        f"{{w: {{kind: simplex, paths: [{CLIP}, {SMOOTHED}], low: 0.7}}, gene.epoch: {{kind: int, low: 1, high: 2}}, "
        "contrastive.optim.lr: {kind: loguniform, low: 1, high: 0.1}, "
        "contrastive.augment.hue: {kind: uniform, low: 0, high: 2, when: {path: nobody, above: 0}}}"
    )
    places = {place.removeprefix("search.space.") for place in problems_of(f"search.space={space}")}
    assert places == {"w.low", "gene.epoch", "contrastive.optim.lr.low", "contrastive.augment.hue",
                      "contrastive.augment.hue.when.path"}  # fmt: skip


@pytest.mark.parametrize(
    ("when", "holding", "failing"),
    [
        (WhenConfig(path="x", above=0.5), [0.6, 1, True], [0.5, 0, None, "a"]),
        (WhenConfig(path="x", equals="mlp"), ["mlp"], ["frozen", None]),
        (WhenConfig(path="x", equals=(1, 2)), [1, 2.0], [3, "1", None]),
    ],
)
def test_a_condition_holds_for_what_it_says(when: WhenConfig, holding: list[object], failing: list[object]) -> None:
    assert all(map(when.holds, holding))
    assert not any(map(when.holds, failing))
