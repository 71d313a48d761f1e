"""Train and score every method of a recipe on every fold with every seed.

  stray train smoke --set dataset=/data/synthetic
  stray train her2st --set dataset=/data/her2st_64 --plan        list the cells and an estimate of their time
  stray train her2st --set dataset=/data/her2st_64 --folds A      hold out patient A only
  stray train my.yaml --folds none --method clip_scvi            train on all patients, to use the encoder elsewhere

It runs on the cluster of RAY_ADDRESS, or on this machine. Ended and started again it goes on where it stopped.
Scores and curves go to MLflow; `stray compare` makes them one table.
"""

from __future__ import annotations

import argparse

from stray.api.experiments import choose, require_dataset, run_experiment
from stray.cli.arguments import add_recipe, connecting, recipe_from
from stray.cli.console import say
from stray.cli.progress import ConsoleProgress
from stray.config import Recipe

HELP = "train every method of a recipe and score it on held-out patients"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray train`."""
    add_recipe(parser)
    add_choice(parser)
    parser.add_argument(
        "--plan", action="store_true", help="list the cells with an estimate of their time; start nothing"
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Declare `--folds` and `--method`, read by `chosen`."""
    parser.add_argument(
        "--folds",
        metavar="WHICH",
        help="`all` (each patient in turn), `none` (train on all), or patients to hold out: A,B",
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        action="append",
        default=[],
        help="train only this method of the recipe; may be repeated",
    )


def chosen(args: argparse.Namespace) -> Recipe:
    """Return the recipe of the command line with its `--folds` and `--method`. Raises InputError."""
    recipe = choose(recipe_from(args), args.method, args.folds)
    require_dataset(recipe)
    return recipe


def run(args: argparse.Namespace) -> int:
    """Train the cells that are not done."""
    recipe = chosen(args)
    if args.plan:
        from stray.cli.plan import show_plan

        show_plan(recipe)
        return 0
    return report(recipe)


def report(recipe: Recipe, *, score_only: bool = False) -> int:
    """Run the experiment and print where its results are."""
    with ConsoleProgress() as progress:
        progress.say(connecting())
        outcome = run_experiment(recipe, score_only=score_only, progress=progress)
    for model in outcome.models:
        verb = "embed" if model.rpartition("/")[2].startswith("gene-") else "predict"
        say(f"model: {model}   (use it: stray {verb} {model} DATASET)")
    if not outcome.models:
        say(f"compare the methods: stray compare --uri {outcome.uri} --experiment {outcome.experiment}")
    return 0
