"""Arguments and tables of the benchmark of the worker pool."""

from __future__ import annotations

import argparse
import tempfile

from rich.table import Table

from jobs.benchmarks.common import ray_session, with_dataset
from jobs.benchmarks.pool.simulate import simulate
from stray.cli.arguments import recipe_from
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress
from stray.recipe import apply

CHANGES = {
    "ingest.sources": [
        {"kind": "synthetic", "patients": 6, "sections_per_patient": 1, "spots_per_section": 150, "genes": 120}
    ],
    "folds.held_out": [],
    "contrastive.epochs": 2,
    "gene.epochs": 20,
}
"""Changes of the smoke recipe where no dataset is named: 18 runs of stages of a few seconds."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--slots",
        metavar="N",
        type=int,
        nargs="+",
        default=[1, 2],
        help="pool: numbers of slots of one CPU, one after the other (default: 1 2)",
    )


def run(args: argparse.Namespace) -> int:
    """Print what was measured, and a simulation from it."""
    recipe = recipe_from(args)
    from jobs.benchmarks.pool.measure import measure
    from stray.on_ray.waiting import patience

    if not recipe.dataset:
        recipe = apply(recipe, CHANGES)
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session(max(args.cpus, *args.slots)),
        ConsoleProgress() as progress,
        patience(recipe.run.wait_minutes, progress.say),
    ):
        recipe = with_dataset(recipe, folder, progress)
        found = [
            measure(recipe, slots=slots, root=f"{folder}/{slots}-slots", progress=progress) for slots in args.slots
        ]
    table = Table(title=f"{found[0].runs} runs, {len(found[0].ended)} stages, slots of 1 CPU", title_justify="left")
    for name in (
        "slots",
        "work",
        "start",
        "wall",
        "wall / (work / slots)",
        "with start",
        "to next stage",
        "9 of 10 in",
    ):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            str(one.slots),
            f"{one.work_s:.1f} s",
            f"{one.start_s:.1f} s",
            f"{one.wall_s:.1f} s",
            f"{one.ratio:.2f}",
            f"{one.ratio_with_start:.2f}",
            f"{one.between_s:.2f} s",
            f"{one.most_between_s:.2f} s",
        )
    stdout.print(table)
    last = found[-1]
    times = {"gene_s": last.seconds("gene-"), "image_s": last.seconds("image-"), "between_s": last.between_s}
    table = Table(title="simulated", title_justify="left")
    for name in ("runs", "slots", "wall", "utilisation"):
        table.add_column(name, justify="right")
    for one in simulate(**times):
        table.add_row(str(one.runs), str(one.slots), f"{one.wall_s:,.0f} s", f"{one.utilisation:.2f}")
    stdout.print(table)
    stages = (
        "gene stages of {gene_s:.1f} s, contrastive stages of {image_s:.1f} s, {between_s:.2f} s from one to the next"
    )
    say(f"simulated: {stages.format(**times)}")
    say("start: until the first stage began; to next stage: median time in which a warm slot ran no stage")
    return 0
