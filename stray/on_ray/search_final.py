"""The last step of a search: the best settings against the recipe's own, on patients that no trial has seen."""

from __future__ import annotations

import math
from dataclasses import replace

from stray.cohort.dataset import PairedDataset
from stray.comparison import read_comparison
from stray.config import Recipe
from stray.on_ray import experiment
from stray.on_ray.progress import Progress
from stray.on_ray.search import Found
from stray.on_ray.tracking import Tracking, log_text
from stray.recipe import for_method
from stray.report.tables import METRIC_NAMES, Comparison
from stray.report.text import main_table, markdown
from stray.track import records

MOST_P = 0.05
"""Largest p-value of a difference that counts as shown."""


def compare_with_recipe(recipe: Recipe, found: Found, progress: Progress) -> Comparison | None:
    """Train the best settings and those of `recipe` without the patients of `search.held_out`, compare them on these
    patients, and keep the comparison in the run of the search.

    None where `search.held_out` is empty or `search.final` is off, and where the recipe's own settings were the best.
    """
    pair = (recipe.tuned, found.recipe.tuned)
    own, best = (for_method(found.recipe, method) for method in pair)
    same = (own.gene, own.contrastive) == (best.gene, best.contrastive)
    if not recipe.search.final or not recipe.search.held_out or same:
        return None
    patients = ", ".join(recipe.search.held_out)
    progress.say(f"the best settings and the recipe's own train for the comparison on {patients}, whom no trial saw")
    two = replace(found.recipe, methods={name: found.recipe.methods[name] for name in pair})
    outcome = experiment.run(two, progress=progress)
    comparison = read_comparison(outcome.uri, outcome.experiment, baseline=pair[0], only=pair)
    dataset = PairedDataset.open(recipe.dataset).manifest.digest
    with Tracking(recipe, kind=records.SEARCH, key=found.key, dataset=dataset, progress=progress) as tracking:
        tables = [markdown(main_table(comparison, source)) for source in comparison.sources]
        log_text(tracking.parent, "final.md", "\n".join([*tables, verdict(comparison), ""]))
    return comparison


def verdict(comparison: Comparison) -> str:
    """Return in words what a comparison with one baseline shows on its first label source."""
    source = comparison.sources[0]
    row = next((row for row in source.rows if row.delta is not None), None)
    if row is None or row.delta is None:
        return "The two have no patient in common: nothing can be concluded."
    delta, score = row.delta, METRIC_NAMES[comparison.metric]
    people = f"{delta.n_folds} patient" + ("s" if delta.n_folds > 1 else "")
    difference = f"{row.method} against {comparison.baseline}: {delta.mean:+.3f} {score} on {people}"
    if math.isnan(delta.p):
        return f"{difference}. These are too few patients for a test: nothing is shown."
    if delta.p >= MOST_P:
        return f"{difference} (p = {delta.p:.3f}). A difference is not shown."
    return f"{difference} (p = {delta.p:.3f}): {'better' if delta.mean > 0 else 'worse'} on patients that no trial saw."
