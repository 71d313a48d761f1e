"""Methods that choose among others: which patients the choice sees, and which candidate it is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from stray.cohort.dataset import PairedDataset, SpotTable
from stray.config import Recipe
from stray.errors import InputError
from stray.experiment.cells import Choice, Group, fold_title
from stray.experiment.grid import Grid, recipe_folds
from stray.recipe import apply
from stray.stages.spec import ImageStage
from tests.support.small_cohort import small_recipe

CHOOSING = {
    "folds.held_out": [],
    "folds.inner": 1,
    "methods.codes": {"train": "gene"},
    "methods.labels": {"train": "gene", "set": {"gene.model.kind": "scanvi"}},
    "methods.best_codes": {"choose": ["codes", "labels"]},
    "methods.guided": {"set": {"contrastive.losses.guided.weight": 1.0}},
    "methods.best": {"choose": ["clip_scvi", "guided"]},
    "methods.other": {"choose": ["clip_scvi", "clip_mlp"]},
}


@pytest.fixture(scope="module")
def recipe(folder: Path, dataset: PairedDataset) -> Recipe:
    return apply(small_recipe(folder), CHOOSING)


def groups(recipe: Recipe, dataset: PairedDataset) -> tuple[Group, ...]:
    return tuple(Grid(recipe, dataset, recipe_folds(recipe, dataset), "root"))


def test_inner_cells_reach_no_spot_of_the_held_out_patient_and_train_on_none_of_the_validation_patient(
    recipe: Recipe, dataset: PairedDataset
) -> None:
    spots = dataset.spots()
    found = groups(recipe, dataset)
    assert [g.inner[0].fold.held_out for g in found] == [("P2",), ("P3",), ("P1",)]
    for group in found:
        held_out = group.cells[0].fold.held_out
        for cell in group.inner:
            trains = [p for p in ("P1", "P2", "P3") if p not in (*held_out, *cell.fold.held_out)]
            used = [cell.scored.gene.rows] + ([cell.scored.rows] if isinstance(cell.scored, ImageStage) else [])
            for rows in used:
                assert set(spots.patient[rows]) == set(trains)
            assert set(spots.patient[cell.scored.embed_rows]) == {*trains, *cell.fold.held_out}
            assert cell.fold.inside == group.cells[0].fold
            assert fold_title(cell.fold) == f"held out {held_out[0]}, inner {cell.fold.held_out[0]}"


def test_a_candidate_of_two_choices_is_tried_once_and_choices_make_no_cell_of_their_own(
    recipe: Recipe, dataset: PairedDataset
) -> None:
    for group in groups(recipe, dataset):
        assert [c.method for c in group.inner] == ["codes", "labels", "clip_scvi", "guided", "clip_mlp"]
        assert not {"best", "best_codes", "other"} & {c.method for c in group.cells}
        keys = [stage.key for stage in group.stages()]
        assert len(set(keys)) == len(keys)
        assert {c.scored.key for c in group.trained} <= set(keys)


def test_the_cells_of_a_recipe_are_the_same_with_and_without_choices(recipe: Recipe, dataset: PairedDataset) -> None:
    without = apply(recipe, dict.fromkeys(["methods.best", "methods.best_codes", "methods.other"]))
    for one, other in zip(groups(recipe, dataset), groups(without, dataset), strict=True):
        assert [c.key for c in one.cells] == [c.key for c in other.cells]
        assert not {c.key for c in one.inner} & {c.key for c in one.cells}
        assert other.choices == ()
        assert one.key != other.key


def test_a_choice_is_found_again_by_everything_that_went_into_it(recipe: Recipe, dataset: PairedDataset) -> None:
    first, second = groups(recipe, dataset)[0], groups(recipe, dataset)[0]
    assert [c.key for c in first.choices] == [c.key for c in second.choices]
    fold = replace(recipe_folds(recipe, dataset)[0], train=("P3", "P2"))
    (same,) = Grid(recipe, dataset, [fold], "root")
    assert same.choices[0].key == first.choices[0].key
    (other,) = Grid(apply(recipe, {"methods.labels.set.gene.epochs": 3}), dataset, [fold], "root")
    assert other.choices[0].key != first.choices[0].key


def test_too_few_patients_for_an_inner_fold_are_refused_before_anything_is_trained(
    recipe: Recipe, dataset: PairedDataset
) -> None:
    with pytest.raises(InputError) as caught:
        groups(apply(recipe, {"folds.inner": 2}), dataset)
    assert {problem.place for problem in caught.value.problems} == {"folds.inner"}
    assert len(caught.value.problems) == 3


def choice(recipe: Recipe, dataset: PairedDataset) -> Choice:
    return groups(recipe, dataset)[0].choices[0]


@pytest.mark.parametrize(
    ("scores", "method"),
    [((0.2, 0.3), "labels"), ((0.3, 0.2), "codes"), ((0.3, 0.3), "codes"), ((math.nan, 0.1), "labels")],
    ids=["the higher", "the other way round", "the first of equals", "one that could be scored"],
)
def test_the_best_trial_decides(
    recipe: Recipe, dataset: PairedDataset, scores: tuple[float, float], method: str
) -> None:
    best = choice(recipe, dataset).best(scores)
    assert best.method == method
    assert best.fold.held_out == ("P1",)
    assert best.fold.inside is None


def test_nothing_is_chosen_where_nothing_could_be_scored(recipe: Recipe, dataset: PairedDataset) -> None:
    with pytest.raises(InputError, match="none of the classes of P2") as caught:
        choice(recipe, dataset).best([math.nan, math.nan])
    assert caught.value.problems[0].place == "methods.best_codes.choose"


def test_patients_without_labels_that_may_train_do_not_judge(recipe: Recipe, dataset: PairedDataset) -> None:
    label = dataset.spots().label.copy()
    label[dataset.spots().patient == "P2"] = None
    spots = replace(dataset.spots(), label=label)

    class Unlabelled(PairedDataset):
        def spots(self) -> SpotTable:
            return spots

    with pytest.raises(InputError, match=r"with P1 held out, 1 training patients have labels \(P3\)"):
        Grid(recipe, Unlabelled(dataset.path, dataset.manifest), recipe_folds(recipe, dataset)[:1], "root")
