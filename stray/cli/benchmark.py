"""Measure stray on this machine. Ratios of one run alone are worth reading: machines are shared and noisy.

stages   each stage through Ray Data and Ray Train, the time it waits for data, and its ratio to the same loop in
         one plain process
gene     the gene stage against scvi-tools on the same matrix, and how near it comes to its matrix products alone
quality  how good the gene codes are, against scvi-tools': same folds, panels, spots, settings and seeds; the ELBO of
         held-out spots, and a probe on the patients held out. The same command goes on where it was interrupted

python jobs/benchmark.py
python jobs/benchmark.py --epochs 10 --set dataset=/data/her2st_64
python jobs/benchmark.py gene --against scvi-tools
python jobs/benchmark.py gene --against scvi-tools --set dataset=/data/her2st_64
python jobs/benchmark.py quality --against scvi-tools --set dataset=/data/her2st_64 --set seeds=[0,1,2]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace

from rich.table import Table

from stray.cli import benchmark_quality
from stray.cli.arguments import add_recipe, recipe_from
from stray.cli.console import Progress, say, stdout

HELP = "measure stray: its speed on this machine, its gene codes against scvi-tools'"

RECIPES = {"stages": "demo", "gene": "demo", "quality": "her2st_gene"}
"""What is measured, and the recipe of each where none is named."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "what", nargs="?", choices=tuple(RECIPES), default="stages", help="what is measured (default: stages)"
    )
    add_recipe(parser, optional=True)
    more = (
        "stages: of the contrastive stage, 25 times as many of the gene stage; gene: of a round, after its first "
        "(default: %(default)s)"
    )
    parser.add_argument("--epochs", metavar="N", type=int, default=4, help=more)
    parser.add_argument("--cpus", metavar="N", type=int, default=os.cpu_count(), help="threads (default: all CPUs)")
    parser.add_argument(
        "--against",
        choices=("scvi-tools",),
        help="gene, quality: who else trains (pip install 'stray[parity]'; quality always takes scvi-tools)",
    )
    gene = parser.add_argument_group("gene")
    gene.add_argument("--rounds", metavar="N", type=int, default=3, help="runs of each (default: %(default)s)")
    gene.add_argument(
        "--spots", metavar="N", type=int, default=13_620, help="of the drawn matrix (default: %(default)s)"
    )
    gene.add_argument(
        "--genes",
        metavar="N",
        type=int,
        default=2_000,
        help="of the drawn matrix, or of the panel (default: %(default)s)",
    )
    benchmark_quality.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row a stage, a row a contender, or a row an implementation."""
    args.recipe = args.recipe or RECIPES[args.what]
    return {"stages": _stages, "gene": _gene, "quality": benchmark_quality.run}[args.what](args)


def _stages(args: argparse.Namespace) -> int:
    """A row a stage."""
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


def _gene(args: argparse.Namespace) -> int:
    """A row a contender."""
    from stray.versus import gene_speed

    if args.against:
        gene_speed.check_scvi_tools()
    recipe = recipe_from(args)
    if recipe.dataset:
        counts, batch = gene_speed.of_cohort(recipe.dataset, replace(recipe.gene.panel, n_genes=args.genes))
    else:
        counts, batch = gene_speed.drawn(args.spots, args.genes, 8)
    names = ["stray", "stray, compiled", "stray, fp32", *([args.against] if args.against else [])]
    names += ["products", "products, sparse first layer", "products, fp32"]
    with Progress() as progress:
        progress.start("race", "rounds", total=args.rounds * len(names))
        done = iter(range(args.rounds * len(names)))
        raced = gene_speed.race(
            names,
            counts,
            batch,
            rounds=args.rounds,
            epochs=args.epochs,
            threads=args.cpus,
            on_run=lambda name, number: progress.update("race", next(done), f"round {number + 1}, {name}"),
        )
        progress.finish("race")
    of = {one.name: one for one in raced}
    source = recipe.dataset or "drawn"
    n_spots, n_genes = map(int, counts.shape)  # pyright: ignore[reportArgumentType]
    table = Table(
        title=f"{n_spots:,} spots x {n_genes:,} genes ({source}), {counts.nnz / n_spots / n_genes:.0%} not zero; "
        f"ZINB, 1 layer, 10 latent dimensions, batches of 128; {args.cpus} threads, {args.rounds} rounds of "
        f"{args.epochs} epochs",
        title_justify="left",
    )
    columns = ["", "spots/s", "slowest to fastest round", *([f"ratio to {args.against}"] if args.against else [])]
    for name in [*columns, "share of the products' speed", "peak memory", "of it training"]:
        table.add_column(name, justify="right" if name else "left")
    for one in raced:
        cells = [one.name, f"{one.spots_per_second:,.0f}", f"{min(one.rates):,.0f} to {max(one.rates):,.0f}"]
        if args.against:
            middle, low, high = gene_speed.ratios(one, of[args.against])
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        cells.append(f"{gene_speed.ratios(one, of['products'])[0]:.0%}")
        table.add_row(*cells, f"{one.peak_bytes / 2**20:,.0f} MiB", f"{one.training_bytes / 2**20:,.0f} MiB")
    stdout.print(table)
    say(
        "products: the matrix products of a step alone, in the precision of `stray`, or exact (fp32); ratios are "
        "medians over rounds, with their range"
    )
    return 0
