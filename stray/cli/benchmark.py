"""Measure each stage on this machine: spots a second through Ray, time waiting for data, ratio to one plain process.

  python jobs/benchmark.py
  python jobs/benchmark.py --epochs 10 --set dataset=/data/her2st_64

Both are measured in one run, with the same threads and the same batches, because machines are shared and noisy.

Or what a spot costs the gene stage in synthetic cohorts of growing size, and how much memory they take:

  python jobs/benchmark.py scale --spots 50000 1000000 --genes 2000
"""

from __future__ import annotations

import argparse
import os
import tempfile

from rich.table import Table

from stray.cli import benchmark_scale
from stray.cli.arguments import add_recipe, recipe_from
from stray.cli.console import Progress, say, stdout

HELP = "measure the speed of each stage on this machine"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="?", choices=["speed", "scale"], default="speed", help="(default: %(default)s)")
    add_recipe(parser, optional=True)
    more = "epochs of the contrastive stage, 25 times as many of the gene stage (default: %(default)s)"
    parser.add_argument("--epochs", metavar="N", type=int, default=4, help=more)
    parser.add_argument("--cpus", metavar="N", type=int, default=os.cpu_count(), help="threads (default: all CPUs)")
    benchmark_scale.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row a stage, or a column a cohort."""
    if args.what == "scale":
        return benchmark_scale.run(args)
    args.recipe = args.recipe or "demo"
    recipe = recipe_from(args)
    from stray.cli.ingest import show_event
    from stray.on_ray import benchmark, ingest, session
    from stray.recipe import apply

    with tempfile.TemporaryDirectory() as folder, session.session(num_cpus=args.cpus), Progress() as progress:
        if not recipe.dataset:
            recipe = apply(recipe, {"dataset": f"{folder}/dataset"})
            ingest.ingest(recipe.ingest, recipe.dataset, on_event=lambda event: show_event(progress, event))
        short = benchmark.shortened(recipe, max(2, args.epochs))
        found = benchmark.measure(short, root=f"{folder}/results", cpus=args.cpus, watch=progress)
    table = Table(
        title=f"{args.cpus} threads, {max(2, args.epochs)} epochs of pictures, medians after the first",
        title_justify="left",
    )
    for name in (
        "stage",
        "spots",
        "spots/s",
        "waiting for data",
        "first epoch, spots/s",
        "plain process, spots/s",
        "ratio",
    ):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for row in found:
        table.add_row(
            row.stage,
            f"{row.spots:,}",
            f"{row.spots_per_second:,.0f}",
            f"{row.waiting_share:.1%}",
            f"{row.first_epoch:,.0f}",
            f"{row.plain_spots_per_second:,.0f}",
            f"{row.ratio:.2f}",
        )
    stdout.print(table)
    say("ratio: through Ray Data and Ray Train, over the same loop in a plain process with the data in its own memory")
    return 0
