"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import os
from contextlib import AbstractContextManager

from stray.cli.progress import ConsoleProgress
from stray.config import Recipe, RunConfig
from stray.errors import InputError, Problem
from stray.recipe import load_recipe, shipped_recipes


def add_recipe(parser: argparse.ArgumentParser, *, default: str | None = None, optional: bool = False) -> None:
    """Declare the positional RECIPE and `--set a.b=c`, read by `recipe_from`."""
    shipped = ", ".join(shipped_recipes())
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?" if optional or default is not None else None,
        default=default,
        help=f"path or URI of a YAML recipe, or a shipped one: {shipped}",
    )
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Declare `--set a.b=c`, as often as needed."""
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="override one setting by its dotted path, such as contrastive.optim.lr=3e-4; may be repeated",
    )


def recipe_from(args: argparse.Namespace) -> Recipe:
    """Return the recipe that the command line names, overrides applied. Raises InputError with every problem at
    once.
    """
    return load_recipe(args.recipe, args.set)


def connecting() -> str:
    """Return the first line that a command prints: importing and starting Ray takes several seconds."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "starting Ray ..." if address in ("", "local") else f"connecting to Ray at {address} ..."


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Declare `--wait-minutes`, for verbs that need no recipe; read by `patient`."""
    default = RunConfig().wait_minutes
    parser.add_argument(
        "--wait-minutes",
        metavar="N",
        type=float,
        help=f"give up after N minutes without free resources on the cluster (default: {default:g}, or the recipe's)",
    )


def patient(
    args: argparse.Namespace, progress: ConsoleProgress, config: RunConfig | None = None
) -> AbstractContextManager[None]:
    """Have what waits for room on the cluster say so, and end after `--wait-minutes`, or what `config` says."""
    from stray.on_ray.waiting import patience

    minutes = (config or RunConfig()).wait_minutes if args.wait_minutes is None else args.wait_minutes
    if minutes is not None and not minutes > 0:
        raise InputError(Problem("--wait-minutes", f"is {minutes:g}", "give more than 0"))
    return patience(minutes, progress.say, "--wait-minutes")
