"""Output of `python jobs/benchmark.py search`: samplers and the ASHA scheduler on a synthetic problem."""

from __future__ import annotations

import argparse
from statistics import mean, median, stdev

from rich.table import Table

from stray.cli.arguments import recipe_from
from stray.cli.console import say, stdout
from stray.config import Recipe

SAMPLERS = ("random", "qmc", "tpe", "cmaes")
TRIALS = 60
"""Trials of a search with and without the scheduler."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `search` alone."""
    search = parser.add_argument_group("search")
    search.add_argument("--searches", metavar="N", type=int, default=10, help="seeds (default: %(default)s)")
    search.add_argument(
        "--most", metavar="N", type=int, default=1_000, help="trials of a search at most (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Print a row per sampler, and a row per sampler with and without the scheduler."""
    from jobs.benchmarks.search.problem import REGION, TOP, share_of_space

    recipe = recipe_from(args)
    _samplers(recipe, args, f"trials until a score of {REGION} ({TOP} is the best), {args.searches} seeds")
    say(f"share of the space in that region: {share_of_space(recipe):.2%}")
    _scheduler(recipe, args)
    return 0


def _samplers(recipe: Recipe, args: argparse.Namespace, title: str) -> None:
    from jobs.benchmarks.search.simulate import trials, until_region

    table = Table(title=title, title_justify="left")
    for name in ("sampler", "median", "fastest", "slowest", f"not within {args.most}", "seeds faster than random"):
        table.add_column(name, justify="left" if name == "sampler" else "right")
    base: list[int] = []
    for sampler in SAMPLERS:
        runs = [trials(recipe, sampler, seed, asha=False) for seed in range(args.searches)]
        numbers = [until_region(run, args.most)[0] for run in runs]
        base = base or numbers
        faster = sum(a < b for a, b in zip(numbers, base, strict=True))
        missed = sum(number == args.most for number in numbers)
        row = [f"{median(numbers):g}", str(min(numbers)), str(max(numbers)), str(missed)]
        table.add_row(sampler, *row, str(faster) if numbers is not base else "")
    stdout.print(table)


def _scheduler(recipe: Recipe, args: argparse.Namespace) -> None:
    from jobs.benchmarks.search.problem import EPOCHS
    from jobs.benchmarks.search.simulate import best_of, trials, until_region

    title = f"trials of {EPOCHS} epochs, {args.searches} seeds: mean (sd); epochs until the best region: median (range)"
    table = Table(title=title, title_justify="left")
    heads = ("sampler", "scheduler", f"epochs of {TRIALS}", "share", "score of the best", "difference", "until region")
    for name in heads:
        table.add_column(name, justify="left" if name in ("sampler", "scheduler") else "right")
    for sampler in ("random", "tpe"):
        whole: list[tuple[int, float]] = []
        for name, asha in {"none": False, "asha": True}.items():
            found = [best_of(trials(recipe, sampler, seed, asha=asha), TRIALS) for seed in range(args.searches)]
            whole = whole or found
            until = [
                until_region(trials(recipe, sampler, seed, asha=asha), args.most)[1] for seed in range(args.searches)
            ]
            epochs, best = [float(e) for e, _ in found], [b for _, b in found]
            shares = [e / w for (e, _), (w, _) in zip(found, whole, strict=True)]
            lost = [b - w for (_, b), (_, w) in zip(found, whole, strict=True)]
            row = [f"{mean(epochs):,.0f} ({_sd(epochs):.0f})", f"{mean(shares):.2f} ({_sd(shares):.2f})"]
            row += [f"{mean(best):.3f} ({_sd(best):.3f})", f"{mean(lost):+.3f} ({_sd(lost):.3f})"]
            table.add_row(sampler, name, *row, f"{median(until):,g} ({min(until):,} to {max(until):,})")
    stdout.print(table)


def _sd(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
