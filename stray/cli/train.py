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

from stray.cli.arguments import add_recipe, recipe_from
from stray.cli.console import Progress, say
from stray.config import Recipe
from stray.errors import InputError, Problem
from stray.recipe import apply

HELP = "train and score every method of a recipe on patients that it has not seen"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray train`."""
    add_recipe(parser)
    add_choice(parser)
    parser.add_argument(
        "--plan", action="store_true", help="list the cells and an estimate of their time; start nothing"
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Declare `--folds` and `--method`, read by `chosen`."""
    parser.add_argument(
        "--folds",
        metavar="WHICH",
        help="`all` (each patient in turn), `none` (train on all), or patients to hold out: A,B",
    )
    parser.add_argument(
        "--method", metavar="NAME", action="append", default=[], help="only this method of the recipe; may be repeated"
    )


def chosen(args: argparse.Namespace) -> Recipe:
    """Return the recipe of the command line with its `--folds` and `--method`. Raises InputError."""
    recipe = recipe_from(args)
    unknown = [name for name in args.method if name not in recipe.methods]
    if unknown:
        methods = ", ".join(recipe.methods)
        raise InputError(
            Problem("--method", f"the recipe has no method {name!r}", f"one of {methods}") for name in unknown
        )
    changes: dict[str, object] = {}
    if args.method:
        # A method that chooses is nothing without those that it chooses among.
        kept = {*args.method, *(other for name in args.method for other in recipe.methods[name].choose)}
        dropped = [name for name in recipe.methods if name not in kept]
        changes |= dict.fromkeys([f"methods.{name}" for name in dropped])
        if recipe.search.method in dropped:
            changes["search.method"] = None
    if args.folds == "none":
        changes |= {"folds.kind": "none"}
    elif args.folds is not None:
        held_out = [] if args.folds == "all" else [name for name in args.folds.split(",") if name]
        changes |= {"folds.kind": "leave_one_out", "folds.held_out": held_out}
    return apply(recipe, changes) if changes else recipe


def require_dataset(recipe: Recipe) -> None:
    """Raise InputError when the recipe names no dataset."""
    if not recipe.dataset:
        remedy = "give it: --set dataset=PATH (`stray ingest PATH ...` makes one)"
        raise InputError(Problem("dataset", "the recipe names none", remedy))


def run(args: argparse.Namespace) -> int:
    """Train what is left to train."""
    recipe = chosen(args)
    require_dataset(recipe)
    if args.plan:
        from stray.cli.plan import show_plan

        show_plan(recipe)
        return 0
    return run_experiment(recipe, train=True)


def run_experiment(recipe: Recipe, *, train: bool) -> int:
    """Run the experiment on Ray and say where its results are."""
    from stray.on_ray import experiment, session

    with session.session(), Progress() as progress:
        outcome = experiment.run(recipe, watch=progress, train=train)
    for model in outcome.models:
        verb = "embed" if model.rpartition("/")[2].startswith("gene-") else "predict"
        say(f"model: {model}   (use it: stray {verb} {model} DATASET)")
    if not outcome.models:
        say(f"compare the methods: stray compare --uri {outcome.uri} --experiment {outcome.experiment}")
    return 0
