"""Helpers that several benchmarks share."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from stray import storage
from stray.cli.ingest import show_event
from stray.cli.progress import ConsoleProgress
from stray.config import Recipe
from stray.recipe import apply

if TYPE_CHECKING:
    from stray.on_ray.session import SessionInfo

PACKAGE = Path(__file__).resolve().parent.parent
"""Folder of the package `jobs`."""


def all_cpus() -> int:
    """Return the number of CPUs of this machine."""
    return os.cpu_count() or 1


def ray_session(num_cpus: int) -> AbstractContextManager[SessionInfo]:
    """Return a session of Ray whose workers can import the benchmarks."""
    from stray.on_ray import session

    return session.session(num_cpus=num_cpus, packages=[str(PACKAGE)])


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
