"""Helpers of the benchmarks' command lines."""

from __future__ import annotations

import os

from stray import storage
from stray.cli.console import ConsoleProgress
from stray.cli.ingest import show_event
from stray.config import Recipe
from stray.recipe import apply


def all_cpus() -> int:
    """Return the number of CPUs of this machine."""
    return os.cpu_count() or 1


def with_dataset(recipe: Recipe, folder: str, progress: ConsoleProgress) -> Recipe:
    """Return the recipe as it is where it names a dataset; else with the one that it says how to make, made in
    `folder`.

    Raises InputError as the ingest does.
    """
    if recipe.dataset:
        return recipe
    from stray.on_ray import ingest

    made = apply(recipe, {"dataset": storage.join(folder, "dataset")})
    ingest.ingest(made.ingest, made.dataset, on_event=lambda event: show_event(progress, event))
    return made
