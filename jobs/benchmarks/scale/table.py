"""Output of `python jobs/benchmark.py scale`: what a spot costs in cohorts of growing size, two epochs of each."""

from __future__ import annotations

import argparse
import tempfile

from rich.table import Table

from jobs.benchmarks.common import ray_session
from stray.cli.arguments import recipe_from
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress
from stray.errors import InputError, Problem

GIB = 2**30


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `scale` alone."""
    scale = parser.add_argument_group("scale")
    scale.add_argument(
        "--spots",
        metavar="N",
        type=int,
        nargs="+",
        default=[50_000, 200_000],
        help="spots of the synthetic cohorts, each drawn, ingested and trained by itself (default: 50000 200000)",
    )


def run(args: argparse.Namespace) -> int:
    """Print a row a cohort. Raises InputError for sizes of which there is no cohort."""
    least = {"--spots": (min(args.spots), 64), "--genes": (args.genes, 50)}
    problems = [Problem(flag, f"is {n}", f"give {low} or more") for flag, (n, low) in least.items() if n < low]
    if problems:
        raise InputError(problems)
    recipe = recipe_from(args)
    from jobs.benchmarks.scale import measure as scale
    from stray.on_ray.waiting import patience

    found = []
    for spots in sorted(args.spots):
        # A Ray of its own for each: its memory is then this cohort's.
        with (
            tempfile.TemporaryDirectory() as folder,
            ray_session(args.cpus),
            ConsoleProgress() as progress,
            patience(recipe.run.wait_minutes, progress.say),
        ):
            sizes = {"spots": spots, "genes": args.genes, "epochs": 2}
            found.append(scale.measure(recipe, **sizes, folder=folder, cpus=args.cpus, progress=progress))
    stdout.print(table(found))
    say(
        "spots/s: of the spots that train, through Ray Data and Ray Train; ratio: seconds a spot of the last epoch over"
    )
    say("those of the smallest cohort; peak: PSS of the process tree without shared memory, and Ray's object store")
    return 0


def table(found: list) -> Table:
    """Return a table with one column per cohort: few fit beside each other otherwise."""
    from jobs.benchmarks.scale.measure import ratios

    made = Table(title=f"The gene stage on synthetic cohorts, {found[0].genes:,} genes", title_justify="left")
    made.add_column("")
    for one in found:
        made.add_column(f"{one.spots:,} spots", justify="right")
    rows = {
        "patients": [f"{one.patients:,}" for one in found],
        "first epoch, spots/s": [f"{one.spots_per_second[0]:,.0f}" for one in found],
        "last epoch, spots/s": [f"{one.spots_per_second[-1]:,.0f}" for one in found],
        "ratio": [f"{ratio:.2f}" for ratio in ratios(found)],
        "peak of the ingest, GiB": [f"{one.ingest_peak_bytes / GIB:.1f}" for one in found],
        "peak of the training, GiB": [f"{one.train_peak_bytes / GIB:.1f}" for one in found],
        "dataset on disk, GB": [f"{one.disk_bytes / 1e9:.2f}" for one in found],
        "ingest, s": [f"{one.ingest_s:,.0f}" for one in found],
        "panel and placing, s": [f"{one.place_s:,.0f}" for one in found],
        "training, s": [f"{one.train_s:,.0f}" for one in found],
    }
    for name, cells in rows.items():
        made.add_row(name, *cells)
    return made
