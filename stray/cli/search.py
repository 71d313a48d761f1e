"""Search a method's hyperparameters: Optuna proposes, Ray Tune runs, patients that no trial trains on decide.

  stray search her2st --set dataset=/data/her2st_64 --set search.trials=40
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


def run(args: argparse.Namespace) -> int:
    """Search, print the trials from best to worst, and print the path of the best recipe."""
    if args.trials is not None:
        args.set = [*args.set, f"search.trials={args.trials}"]
    recipe = recipe_from(args)
    require_dataset(recipe)
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
        values = [f"{v:.3g}" if isinstance(v := trial[name], float) else str(v) for name in settings]
        table.add_row(*values, "failed" if math.isnan(trial["score"]) else f"{trial['score']:.3f}")
    stdout.print(table)
