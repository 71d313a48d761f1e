"""Search a method's hyperparameters: Optuna proposes, Ray Tune runs, patients that no trial trains on decide.

  stray search her2st --set dataset=/data/her2st_64 --set search.trials=40
  stray train stray-runs/her2st/best.yaml                        the recipe that it finds

The space is `search.space` of the recipe: dotted paths and their distributions. Patients of `search.held_out` are
seen by no trial, so that a later comparison on them is honest; those of `search.validation` score the trials.
"""

from __future__ import annotations

import argparse
import math

from rich.table import Table

from stray.api.experiments import require_dataset
from stray.cli.arguments import add_recipe, connecting, recipe_from
from stray.cli.console import ConsoleProgress, say, stdout

HELP = "search hyperparameters with Ray Tune and Optuna"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray search`."""
    add_recipe(parser)
    parser.add_argument("--trials", metavar="N", type=int, help="number of trials (default: the recipe's)")


def run(args: argparse.Namespace) -> int:
    """Search, print the trials from best to worst, and say where the best recipe is."""
    if args.trials is not None:
        args.set = [*args.set, f"search.trials={args.trials}"]
    recipe = recipe_from(args)
    require_dataset(recipe)
    with ConsoleProgress() as progress:
        progress.say(connecting())
        from stray.on_ray import search, session

        with session.session():
            found = search.search(recipe, progress=progress)
    show_trials(found.trials)
    say(f"best recipe: {found.path}   (train it: stray train {found.path})")
    say(f"MLflow: {found.uri}")
    return 0


def show_trials(trials: tuple) -> None:
    """Print a table of trials, best first."""
    table = Table(title="Trials, best first", title_justify="left")
    for path in trials[0].settings:
        table.add_column(path.replace("contrastive.", ""), justify="right")
    table.add_column("balanced accuracy,\ninner validation", justify="right")
    for trial in trials:
        values = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in trial.settings.values()]
        table.add_row(*values, "failed" if math.isnan(trial.score) else f"{trial.score:.3f}")
    stdout.print(table)
