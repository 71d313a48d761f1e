"""Search a method's hyperparameters: Optuna proposes, Ray Tune runs, patients that no trial trains on decide.

  stray search her2st --set dataset=/data/her2st_64 --set search.trials=40
  stray search her2st --set dataset=/data/her2st_64 --dry-run     show the space, the first trials and their time
  stray train stray-runs/her2st/best.yaml                        train the best recipe

The space is `search.space` of the recipe: dotted paths and their distributions. Each trial trains once without each of
`search.inner_folds` patients, on whom it is scored; `search.scheduler` stops trials that fall behind. Patients of
`search.held_out` are seen by no trial: at the end the best settings are compared with the recipe's own on them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from stray.api.experiments import require_dataset, search
from stray.cli.arguments import add_recipe, connecting, recipe_from
from stray.cli.compare import show
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress
from stray.recipe.space import short_names

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
    if found.final is not None:
        from stray.on_ray.search_final import verdict

        show(found.final, stdout)
        stdout.print(verdict(found.final))
    say(f"best recipe: {found.path}   (train it: stray train {found.path})")
    say(f"MLflow: {found.uri}")
    return 0


WIDE = 4
"""Most settings that have a column of their own; more stand in one column."""


def show_trials(trials: pd.DataFrame) -> None:
    """Print `SearchResult.table`, the best trial first."""
    facts = ("trial", "name", "score", "sd", "state", "judged", "error", "hours", "front")
    timed = bool(trials["hours"].notna().any())
    settings = [name for name in trials.columns if name not in facts]
    short = short_names(settings)
    title = "Trials, best first (balanced accuracy on inner validation patients"
    title += ", mean ± sd over them)" if trials["sd"].notna().any() else ")"
    table = Table(title=title, title_justify="left")
    table.add_column("trial", justify="right", no_wrap=True)
    wide = len(settings) <= WIDE
    for path in settings if wide else []:
        table.add_column(short[path], justify="right", overflow="fold")
    if not wide:
        table.add_column("settings", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    if timed:
        table.add_column("device\nminutes", justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for place, trial in enumerate(trials.to_dict("records")):
        shown = {short[name]: _shown(trial[name]) for name in settings}
        joined = "  ".join(f"{name}\N{NO-BREAK SPACE}{value}" for name, value in shown.items() if value != "-")
        values = shown.values() if wide else [joined]
        style = "bold" if place == 0 else None
        table.add_row(str(trial["trial"]), *values, _score(trial), *_minutes(trial, timed), _state(trial), style=style)
    stdout.print(table)


def _score(trial: Mapping[Any, Any]) -> str:
    if math.isnan(trial["score"]):
        return "-"
    return f"{trial['score']:.3f}" + ("" if math.isnan(trial["sd"]) else f" ± {trial['sd']:.3f}")


def _minutes(trial: Mapping[Any, Any], timed: bool) -> list[str]:
    if not timed:
        return []
    return ["-" if math.isnan(trial["hours"]) else f"{60 * trial['hours']:.2f}"]


def _state(trial: Mapping[Any, Any]) -> str:
    if trial["state"] == "pruned":
        return f"stopped after epoch {trial['judged']}" if trial["judged"] else "stopped"
    if trial["state"] == "failed":
        return f"failed: {trial['error'][:60]}"
    return f"{trial['state']}, Pareto front" if trial["front"] else str(trial["state"])


def _shown(value: object) -> str:
    """Return a setting; a dash where the trial did not draw it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}"
    return str(value)
