"""The trials of a search before they run: tuned method, inner folds, and the recipe that the best of them gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold, patients
from stray.config import Recipe
from stray.errors import InputError, Problem
from stray.experiment.cells import Cell, cell
from stray.experiment.rungs import gates, judged_epochs, most_epochs
from stray.metrics.labels import training_labels
from stray.noise import numpy_generator
from stray.recipe import apply, for_method
from stray.stages.judge import Judge
from stray.stages.spec import ImageStage


def tuned_method(recipe: Recipe) -> str:
    """Return the method that a search tunes. Raises InputError where it has no image encoder to tune."""
    method = recipe.tuned
    if recipe.methods[method].train != "contrastive":
        what, remedy = f"{method!r} trains no image encoder to tune", "name a method that trains both stages"
        raise InputError(Problem("search.method", what, remedy))
    return method


def search_folds(recipe: Recipe, dataset: PairedDataset) -> tuple[Fold, ...]:
    """Return the inner folds of the search: each holds out one validation patient, and trains on all patients but this
    one and those of `search.held_out`.

    Validation patients are those that `search.validation` names, else `search.inner_folds` of the labelled training
    patients, or as many as there are: those with the most classes. Raises InputError for patients that the dataset
    lacks or that have no label that may train a probe, and where none is left to validate or to train on.
    """
    config, spots = recipe.search, dataset.spots()
    rows = np.flatnonzero(spots.has_image)
    labelled = rows[training_labels(rows, spots, patients(spots), recipe.eval)]
    everyone, known = patients(spots), set(spots.patient[labelled].tolist())
    problems = [
        Problem(f"search.{name}", f"no patient {patient!r} in the dataset", f"one of {', '.join(everyone)}")
        for name in ("held_out", "validation")
        for patient in getattr(config, name)
        if patient not in everyone
    ]
    left = sorted(known - set(config.held_out))
    for patient in config.validation:
        if patient in everyone and patient not in known:
            what = f"no pictured spot of patient {patient!r} has a label of a source that may train"
            problems.append(Problem("search.validation", what, f"name of {', '.join(left) or 'none'}"))
    classes = {patient: len(set(spots.label[labelled][spots.patient[labelled] == patient])) for patient in left}
    most = sorted(left, key=lambda patient: (-classes[patient], patient))
    judges = config.validation or sorted(most[: config.inner_folds])
    if not problems and (not judges or len(left) < 2):
        what = f"of {', '.join(everyone)}, {', '.join(left) or 'nobody'} is left with labels to train and to validate"
        problems.append(Problem("search", what, "hold out fewer patients, or label more: at least two are needed"))
    if problems:
        raise InputError(problems)
    return tuple(
        Fold(f"search-{judge}", (judge,), tuple(p for p in everyone if p not in config.held_out and p != judge))
        for judge in judges
    )


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """Everything that the trials of a search have in common."""

    recipe: Recipe
    method: str
    dataset: PairedDataset
    folds: tuple[Fold, ...]
    root: str
    """Folder of the stages' results."""

    @classmethod
    def of(cls, recipe: Recipe, dataset: PairedDataset, root: str) -> TrialPlan:
        """Return the plan of a search. Raises InputError as `tuned_method` and `search_folds` do."""
        method = tuned_method(recipe)
        return cls(recipe=recipe, method=method, dataset=dataset, folds=search_folds(recipe, dataset), root=root)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that every trial is repeated with."""
        return self.recipe.search.seeds or self.recipe.seeds[:1]

    @property
    def judges(self) -> tuple[str, ...]:
        """The inner validation patients."""
        return tuple(patient for fold in self.folds for patient in fold.held_out)

    @property
    def how_judged(self) -> str:
        """Description of what judges a trial."""
        seeds = f" with {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        if len(self.folds) == 1:
            return f"trials are judged on patient {self.judges[0]} alone{seeds}: a noisy score (search.inner_folds)"
        return f"trials are judged on patients {', '.join(self.judges)}, each by a training without it{seeds}"

    @property
    def size(self) -> int:
        """Number of trainings of a trial."""
        return len(self.folds) * len(self.seeds)

    @cached_property
    def most_epochs(self) -> int:
        """The most contrastive epochs of a trial."""
        return most_epochs(self.recipe)

    def cells(self, settings: Mapping[str, Any]) -> tuple[Cell, ...]:
        """Return the cells of a trial, every inner fold with every seed: none sees the patients of `search.held_out`,
        whose pictures are not even embedded.
        """
        tuned = for_method(self.recipe, self.method, {**self.recipe.search.set, **settings})
        return tuple(self._cell(tuned, fold, seed) for fold in self.folds for seed in self.seeds)

    def gates(self, cell: Cell) -> tuple[int, ...]:
        """Return the epochs at which the scored stage of a cell may be stopped."""
        return gates(self.recipe.search, self.most_epochs, cell.scored.epochs)

    def _cell(self, tuned: Recipe, fold: Fold, seed: int) -> Cell:
        seen = (*fold.train, *fold.held_out)
        made = cell(tuned, self.dataset, fold, seed, self.root, method=self.method, embed_patients=seen)
        epochs = judged_epochs(self.recipe.search, self.most_epochs, made.scored.epochs)
        if not epochs or not isinstance(made.scored, ImageStage):
            return made
        return replace(made, scored=replace(made.scored, judge=replace(self._judge(fold), epochs=frozenset(epochs))))

    def _judge(self, fold: Fold) -> Judge:
        """Return the judge of a fold: a sample of its labelled spots, the same for every trial."""
        spots, config, search = self.dataset.spots(), self.recipe.eval, self.recipe.search
        rows = np.flatnonzero(spots.has_image)
        drawn = numpy_generator(search.seed, "search", "judge", *fold.held_out)
        chosen = [
            drawn.permutation(rows[training_labels(rows, spots, side, config)])[: search.judge_spots]
            for side in (fold.train, fold.held_out)
        ]
        picked = np.sort(np.concatenate(chosen))
        strengths = sorted(config.probe_c)
        arrays = ("spot_id", "patient", "section", "x_um", "y_um", "label", "label_source")
        return Judge(
            epochs=frozenset(),
            rows=picked,
            **{name: np.asarray(getattr(spots, name))[picked] for name in arrays},
            train=fold.train,
            held_out=fold.held_out,
            # One strength: choosing it among several would take longer than the features.
            config=replace(config, probe_c=(strengths[len(strengths) // 2],)),
            seed=self.seeds[0],
        )


def tuned_name(method: str) -> str:
    """Return the name of a method with the settings that a search found: METHOD_tuned, METHOD_tuned2, ..."""
    stem, mark, number = method.rpartition("_tuned")
    if not mark or not (number.isdigit() or not number):
        return f"{method}_tuned"
    return f"{stem}_tuned{int(number or 1) + 1}"


def best_recipe(recipe: Recipe, method: str, best: Mapping[str, Any], judges: Sequence[str]) -> Recipe:
    """Return the recipe with one more method, `tuned_name(method)`: the tuned method with the best settings.

    It is scored on the patients that the search did not see. Where the search held nobody out the folds stay, and the
    patients that judged the trials (`judges`) are marked in the recipe: scores on them are no estimate.
    """
    own, name = recipe.methods[method], tuned_name(method)
    changes: dict[str, object] = {
        f"methods.{name}": {"set": {**own.set, **best}},
        "search.method": name,
        "search.chosen_on": list(judges),
    }
    if recipe.search.held_out:
        changes["folds.held_out"] = list(recipe.search.held_out)
    return apply(recipe, changes)
