"""The trials of a search before they run: tuned method, inner fold, and the recipe that the best of them gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold, patients, scorable_patients
from stray.config import Recipe
from stray.errors import InputError, Problem
from stray.recipe import apply


def tuned_method(recipe: Recipe) -> str:
    """Return the method that a search tunes. Raises InputError where it has no image encoder to tune."""
    method = recipe.tuned
    if recipe.methods[method].train != "contrastive":
        what, remedy = f"{method!r} trains no image encoder to tune", "name a method that trains both stages"
        raise InputError(Problem("search.method", what, remedy))
    return method


def search_fold(recipe: Recipe, dataset: PairedDataset) -> Fold:
    """Return the fold of the search: validation patients, and the training patients that are neither these nor held
    out.

    Raises InputError for patients that the dataset lacks, and where none is left.
    """
    config, spots = recipe.search, dataset.spots()
    everyone, scorable = patients(spots), scorable_patients(spots, recipe.eval)
    problems = [
        Problem(f"search.{name}", f"no patient {patient!r} in the dataset", f"one of {', '.join(everyone)}")
        for name in ("held_out", "validation")
        for patient in getattr(config, name)
        if patient not in everyone
    ]
    left = [p for p in scorable if p not in config.held_out]
    validation = config.validation or tuple(left[-1:])
    train = tuple(p for p in everyone if p not in config.held_out and p not in validation)
    if not problems and (not validation or not train):
        what = f"none of {', '.join(everyone)} is left to {'train on' if validation else 'validate on'}"
        problems.append(Problem("search", what, "hold out fewer patients"))
    if problems:
        raise InputError(problems)
    return Fold("search", validation, train)


def best_recipe(recipe: Recipe, method: str, best: Mapping[str, Any], judges: Sequence[str]) -> Recipe:
    """Return the recipe whose method carries the best settings, scored on the patients that the search did not see.

    The other methods stay as they are. Where the search held nobody out the folds stay, too, and the patients that
    judged the trials (`judges`) are marked in the recipe: scores on them are no estimate.
    """
    settings = {**recipe.methods[method].set, **best}
    changes: dict[str, object] = {f"methods.{method}.set": settings, "search.chosen_on": list(judges)}
    if recipe.search.held_out:
        changes["folds.held_out"] = list(recipe.search.held_out)
    return apply(recipe, changes)
