"""Measure stray on this machine. Ratios of one run alone are worth reading: machines are shared and noisy.

stages   each stage through Ray Data and Ray Train, the time it waits for data, and its ratio to the same loop in
         one plain process
gene     the gene stage against scvi-tools on the same matrix, and how near it comes to its matrix products alone
contrastive  the contrastive stage through Ray Data and Ray Train against the same step on tensors in memory and against
         a plain PyTorch DataLoader over the same Parquet, in turn; and loading alone, without a model
quality  how good the gene codes are, against scvi-tools': same folds, panels, spots, settings and seeds; the ELBO of
         held-out spots, and a probe on the patients held out. The same command goes on where it was interrupted
search   samplers and the ASHA scheduler of a search on a synthetic score: trials until its best region, epochs spent
pool     how well slots are filled: wall time of a grid over the work in it, the time from one stage to the next, and a
         simulation of larger grids on more slots from the measured times
scale    what a spot costs the gene stage in synthetic cohorts of growing size, and how much memory they take

python jobs/benchmark.py
python jobs/benchmark.py --epochs 10 --set dataset=/data/her2st_64
python jobs/benchmark.py gene --against scvi-tools
python jobs/benchmark.py gene --against scvi-tools --set dataset=/data/her2st_64
python jobs/benchmark.py contrastive --workers 2 --set run.residence=encoded
python jobs/benchmark.py quality --against scvi-tools --set dataset=/data/her2st_64 --set seeds=[0,1,2]
python jobs/benchmark.py search
python jobs/benchmark.py pool --slots 1 2
python jobs/benchmark.py scale --spots 50000 1000000 --genes 2000
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

from rich.table import Table

from jobs.benchmarks.common import all_cpus, ray_session, with_dataset
from jobs.benchmarks.contrastive import table as contrastive
from jobs.benchmarks.gene import table as gene
from jobs.benchmarks.pool import table as pool
from jobs.benchmarks.quality import table as quality
from jobs.benchmarks.scale import table as scale
from jobs.benchmarks.search import table as search
from stray.cli import run_command
from stray.cli.arguments import add_recipe, recipe_from
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress

RECIPES = {
    "stages": "demo",
    "gene": "demo",
    "contrastive": "demo",
    "quality": "her2st_gene",
    "pool": "smoke",
    "scale": "demo",
    "search": "search",
}
"""Benchmarks, and the recipe of each where none is named."""


def main(argv: Sequence[str]) -> int:
    """Run the command line of `python jobs/benchmark.py`, and return its exit code as a verb of stray does."""
    return run_command(__name__, "python jobs/benchmark.py", argv)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "what", nargs="?", choices=tuple(RECIPES), default="stages", help="benchmark to run (default: stages)"
    )
    add_recipe(parser, optional=True)
    more = (
        "stages: of the contrastive stage, 25 times as many of the gene stage; gene, contrastive: of a "
        "round, after its first "
        "(default: %(default)s)"
    )
    parser.add_argument("--epochs", metavar="N", type=int, default=4, help=more)
    threads = "threads (default: all CPUs; while `contrastive` trains, all but one, which is left to Ray)"
    parser.add_argument("--cpus", metavar="N", type=int, help=threads)
    parser.add_argument(
        "--against",
        choices=("scvi-tools",),
        help="gene, quality: who else trains (pip install 'stray-st[parity]'; quality always takes scvi-tools)",
    )
    parser.add_argument(
        "--genes",
        metavar="N",
        type=int,
        default=2_000,
        help="gene, scale: of the drawn matrix, the dataset's panel or the cohort (default: %(default)s)",
    )
    gene.configure(parser)
    pool.configure(parser)
    quality.configure(parser)
    scale.configure(parser)
    search.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was measured."""
    args.recipe = args.recipe or RECIPES[args.what]
    if args.what != "contrastive":
        args.cpus = args.cpus or all_cpus()
    of = {
        "gene": gene.run,
        "contrastive": contrastive.run,
        "pool": pool.run,
        "quality": quality.run,
        "scale": scale.run,
        "search": search.run,
    }
    return of.get(args.what, _stages)(args)


def _stages(args: argparse.Namespace) -> int:
    """Return a table with one row per stage."""
    recipe = recipe_from(args)
    from jobs.benchmarks import stages
    from stray.on_ray.waiting import patience

    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session(args.cpus),
        ConsoleProgress() as progress,
        patience(recipe.run.wait_minutes, progress.say),
    ):
        recipe = with_dataset(recipe, folder, progress)
        short = stages.shortened(recipe, max(2, args.epochs))
        found = stages.measure(short, root=f"{folder}/results", cpus=args.cpus, progress=progress)
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
