"""Points of a search space: what is drawn, and the recipe's own settings as a point."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from scipy import stats

from stray.config import Recipe
from stray.experiment.space import SearchSpace, simplex_weights
from stray.recipe import apply, for_method, load_recipe

CLIP, SMOOTHED, GUIDED = (f"contrastive.losses.{name}.weight" for name in ("clip", "smoothed", "guided"))
TEMPERATURE = "contrastive.losses.smoothed.temperature"


def recipe_with(space: str, *more: str) -> Recipe:
    return load_recipe(None, [f"search.space={{{space}}}", *more])


def drawn(recipe: Recipe, n: int = 200, seed: int = 0) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    space = SearchSpace.of(recipe)
    return [space.suggest(study.ask()) for _ in range(n)]


def test_values_keep_their_range_step_and_type() -> None:
    recipe = recipe_with(
        "contrastive.optim.lr: {kind: loguniform, low: 1e-4, high: 1e-2}, "
        "contrastive.augment.hue: {kind: uniform, low: 0.01, high: 0.1}, "
        "contrastive.augment.contrast: {kind: quniform, low: 0, high: 0.3, step: 0.1}, "
        "gene.model.n_latent: {kind: int, low: 4, high: 64, log: true}, "
        "contrastive.batch_size: {kind: int, low: 64, high: 256, step: 64}, "
        "contrastive.projection.size: {kind: choice, values: [32, 64]}"
    )
    points = drawn(recipe)
    lr = np.array([point["contrastive.optim.lr"] for point in points], dtype=float)
    assert ((lr >= 1e-4) & (lr <= 1e-2)).all()
    assert stats.kstest(np.log10(lr), stats.uniform(-4, 2).cdf).pvalue > 0.01
    assert {round(float(str(point["contrastive.augment.contrast"])), 9) for point in points} == {0.0, 0.1, 0.2, 0.3}
    latent = [point["gene.model.n_latent"] for point in points]
    assert all(isinstance(n, int) and 4 <= n <= 64 for n in latent)
    assert np.median(np.array(latent, dtype=float)) < 25  # 16 in the middle of the logarithms, 34 of the numbers
    assert {point["contrastive.batch_size"] for point in points} == {64, 128, 192, 256}
    assert {point["contrastive.projection.size"] for point in points} == {32, 64}
    for point in points[:5]:
        for_method(recipe, recipe.tuned, point)  # the recipe takes it


def test_weights_of_a_simplex_are_uniform_on_it() -> None:
    recipe = recipe_with(f"w: {{kind: simplex, paths: [{CLIP}, {SMOOTHED}, {GUIDED}]}}")
    weights = np.array(
        [[point[path] for path in (CLIP, SMOOTHED, GUIDED)] for point in drawn(recipe, 600)], dtype=float
    )
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    for column in weights.T:  # the margins of Dirichlet(1, 1, 1)
        assert stats.kstest(column, stats.beta(1, 2).cdf).pvalue > 0.01


def test_small_weights_of_a_simplex_become_zero() -> None:
    recipe = recipe_with(f"w: {{kind: simplex, paths: [{CLIP}, {SMOOTHED}, {GUIDED}], low: 0.2}}")
    weights = np.array(
        [[point[path] for path in (CLIP, SMOOTHED, GUIDED)] for point in drawn(recipe, 300)], dtype=float
    )
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    assert ((weights == 0) | (weights >= 0.2)).all()
    assert 0.3 < (weights == 0).mean() < 0.5  # P(w < 0.2) = 1 - 0.8^2 = 0.36
    assert simplex_weights({"a": 1.0, "b": 1.0}, 0.0) == {"a": 0.5, "b": 0.5}


def test_a_parameter_is_drawn_only_where_its_condition_holds() -> None:
    recipe = recipe_with(
        f"w: {{kind: simplex, paths: [{CLIP}, {SMOOTHED}], low: 0.3}}, "
        # Stands before what it looks at, and a third parameter looks at it.
        "contrastive.batch_size: "
        "  {kind: int, low: 8, high: 64, when: {path: contrastive.projection.size, equals: [32]}}, "
        f"contrastive.projection.size: {{kind: choice, values: [32, 64], when: {{path: {SMOOTHED}, above: 0}}}}, "
        f"{TEMPERATURE}: {{kind: uniform, low: 0.1, high: 0.3, when: {{path: {SMOOTHED}, above: 0.5}}}}"
    )
    points = drawn(recipe)
    for point in points:
        assert (TEMPERATURE in point) == (float(str(point[SMOOTHED])) > 0.5)
        assert ("contrastive.projection.size" in point) == (point[SMOOTHED] != 0)
        assert ("contrastive.batch_size" in point) == (point.get("contrastive.projection.size") == 32)
    assert len({frozenset(point) for point in points}) == 5


def test_a_condition_on_a_setting_of_the_recipe_holds_for_the_tuned_method() -> None:
    space = "gene.epochs: {kind: int, low: 2, high: 8, when: {path: contrastive.gene_tower.kind, equals: mlp}}, " \
            "contrastive.optim.lr: {kind: uniform, low: 0.1, high: 0.2}"  # fmt: skip
    recipe = recipe_with(space, "search.method=clip_mlp")
    assert all("gene.epochs" in point for point in drawn(recipe, 5))


def test_the_recipe_is_a_point_of_its_space() -> None:
    space = (
        f"w: {{kind: simplex, paths: [{CLIP}, {SMOOTHED}, {GUIDED}], low: 0.1}}, "
        f"{TEMPERATURE}: {{kind: uniform, low: 0.1, high: 0.3, when: {{path: {SMOOTHED}, above: 0}}}}, "
        "contrastive.optim.lr: {kind: loguniform, low: 1e-4, high: 1e-2}, "
        "contrastive.projection.size: {kind: choice, values: [64, 128]}"
    )
    recipe = recipe_with(space, "contrastive.optim.lr=0.002", "contrastive.projection.size=128")
    expected = {
        CLIP: 1.0,
        SMOOTHED: 0.0,
        GUIDED: 0.0,
        "contrastive.optim.lr": 0.002,
        "contrastive.projection.size": 128,
    }
    assert SearchSpace.of(recipe).recipe_settings() == expected
    assert for_method(recipe, recipe.tuned, expected) == for_method(recipe, recipe.tuned)
    both = apply(recipe, {CLIP: 0.6, SMOOTHED: 0.4, TEMPERATURE: 0.2})
    found = SearchSpace.of(both).recipe_settings()
    assert found[CLIP] == pytest.approx(0.6)
    assert found[SMOOTHED] == pytest.approx(0.4)
    assert found[TEMPERATURE] == 0.2


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"contrastive.optim.lr": 0.5}, "contrastive.optim.lr"),
        ({"contrastive.projection.size": 96}, "contrastive.projection.size"),
        ({CLIP: 2.0}, CLIP),  # does not sum to one
        ({CLIP: 0.95, SMOOTHED: 0.05}, CLIP),  # is below `low`
        ({"contrastive.augment.contrast": 0.25}, "contrastive.augment.contrast"),  # between two steps
        ({"gene.epochs": 12}, "gene.epochs"),
    ],
)
def test_what_lies_outside_the_space_is_left_to_the_sampler(changes: dict[str, object], left_out: str) -> None:
    space = (
        f"w: {{kind: simplex, paths: [{CLIP}, {SMOOTHED}], low: 0.1}}, "
        "contrastive.optim.lr: {kind: loguniform, low: 1e-4, high: 1e-2}, "
        "contrastive.augment.contrast: {kind: quniform, low: 0, high: 0.3, step: 0.1}, "
        "gene.epochs: {kind: int, low: 5, high: 400, step: 5}, "
        "contrastive.projection.size: {kind: choice, values: [64, 128]}"
    )
    base = recipe_with(space, "contrastive.augment.contrast=0.1", "gene.epochs=20", "contrastive.projection.size=64")
    whole = SearchSpace.of(base).recipe_settings()
    assert len(whole) == 6
    found = SearchSpace.of(apply(base, changes)).recipe_settings()
    assert left_out in whole.keys() - found.keys()
    assert whole.keys() - found.keys() <= {left_out, SMOOTHED}
