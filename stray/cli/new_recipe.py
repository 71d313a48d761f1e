"""Recipe that `stray config new` prints: the defaults, adapted to a dataset."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from urllib.parse import urlparse

import numpy as np

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.split import scorable_patients
from stray.columns import ANNOTATED
from stray.config import EvalConfig, FoldsConfig, LabelSourcesConfig, MethodConfig, Recipe
from stray.metrics.labels import usable


def new_recipe(path: str) -> Recipe:
    """Return the defaults with the name, the label sources and the folds of the dataset at `path` (path or URI).

    Every source of labels that can be scored trains and is scored; only labels that sections bring themselves are
    trusted. No patient is held out where fewer than two patients can be scored. A dataset in which no spot has both
    counts and a picture gets methods that need one of them alone. Raises InputError when there is no dataset.
    """
    dataset = PairedDataset.open(path)
    spots = dataset.spots()
    recipe = Recipe(name=_name(path), dataset=storage.absolute(path))
    pictured = True
    if not (spots.has_image & spots.has_counts).any():
        pictured = not spots.has_counts.any()
        genes = {"pca": MethodConfig(train="gene", set={"gene.model.kind": "pca"}), "scvi": MethodConfig(train="gene")}
        recipe = replace(recipe, methods={"untrained": MethodConfig(train="nothing")} if pictured else genes)
    scored = usable(np.arange(len(spots)), spots, recipe.eval) & (spots.has_image if pictured else spots.has_counts)
    found = set(spots.label_source[scored].tolist())
    sources = tuple(sorted(found, key=lambda name: (name != ANNOTATED, name))) or (ANNOTATED,)
    trusted = tuple(name for name in sources if name == ANNOTATED)
    evaluation = EvalConfig(label_sources=LabelSourcesConfig(train=sources, score=sources, trusted=trusted))
    few = len(scorable_patients(spots, evaluation, pictured=pictured)) < 2
    return replace(recipe, eval=evaluation, folds=FoldsConfig(kind="none" if few else "leave_one_out"))


def notes(recipe: Recipe) -> str:
    """Return YAML comments on the decisions that are left to the user."""
    sources = recipe.eval.label_sources
    lines = []
    if weak := [name for name in sources.score if name not in sources.trusted]:
        lines.append(f"Scores on {', '.join(weak)} are marked weak. Add a source that is truth to")
        lines.append("eval.label_sources.trusted.")
    if recipe.folds.kind == "none":
        lines.append("Nobody is held out, so nothing is scored: fewer than two patients have labels.")
    return "".join(f"# {line}\n" for line in lines)


def _name(path: str) -> str:
    """Return the name of the dataset's folder as a valid recipe name."""
    address = urlparse(path)
    place = address.path.strip("/") or address.hostname or "" if "://" in path else os.path.abspath(path)
    return re.sub(r"[^\w.-]+", "_", os.path.basename(place)).lstrip(".-") or Recipe().name
