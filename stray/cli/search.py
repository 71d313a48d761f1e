"""Search a method's hyperparameters: Optuna proposes, Ray Tune runs, patients that no trial trains on decide.

  stray search her2st --set dataset=/data/her2st_64 --set search.trials=40
  stray search her2st --set dataset=/data/her2st_64 --dry-run     show the space, the first trials and their time
  stray train stray-runs/her2st/best.yaml                        train the best recipe

The space is `search.space` of the recipe: dotted paths and their distributions. Patients of `search.held_out` are
seen by no trial, so that a later comparison on them is honest; those of `search.validation` score the trials.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from rich.table import Table

from stray.api.experiments import require_dataset, search
from stray.cli.arguments import add_recipe, connecting, recipe_from
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress

if TYPE_CHECKING:
    import pandas as pd

HELP = "search hyperparameters with Ray Tune and Optuna"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray search`."""
    add_recipe(parser)
    parser.add_argument("--trials", metavar="N", type=int, help="number of trials (default: the recipe's)")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the space, the first trials and an estimate; start nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Search, print the trials from best to worst, and print the path of the best recipe."""
    if args.trials is not None:
        args.set = [*args.set, f"search.trials={args.trials}"]
    recipe = recipe_from(args)
    require_dataset(recipe)
    if args.dry_run:
        from stray.cli.search_plan import show_search

        show_search(recipe)
        return 0
    with ConsoleProgress() as progress:
        progress.say(connecting())
        found = search(recipe, progress=progress)
    show_trials(found.table)
    say(f"best recipe: {found.path}   (train it: stray train {found.path})")
    say(f"MLflow: {found.uri}")
    return 0


def show_trials(trials: pd.DataFrame) -> None:
    """Print `SearchResult.table`."""
    table = Table(title="Trials, best first", title_justify="left")
    settings = [name for name in trials.columns if name not in ("trial", "score")]
    for path in settings:
        table.add_column(path.replace("contrastive.", ""), justify="right")
    table.add_column("balanced accuracy,\ninner validation", justify="right")
    for trial in trials.to_dict("records"):
        values = [_shown(trial[name]) for name in settings]
        table.add_row(*values, "failed" if math.isnan(trial["score"]) else f"{trial['score']:.3f}")
    stdout.print(table)


def _shown(value: object) -> str:
    """Return a setting; a dash where the trial did not draw it."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}"
    return str(value)
