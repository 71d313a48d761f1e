"""Output of `python jobs/benchmark.py gene`: implementations train the same gene model on the same matrix, in turn."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from rich.table import Table

from stray.cli.arguments import recipe_from
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress

SPOTS = 13_620
"""Spots of the drawn matrix: as many as HER2ST has."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `gene` alone."""
    gene = parser.add_argument_group("gene, contrastive")
    gene.add_argument("--rounds", metavar="N", type=int, default=3, help="runs of each (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print a row per implementation. Raises InputError when scvi-tools is asked for and is not installed."""
    # Read as torch is loaded: its profiler logs that there is no GPU as an error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from jobs.benchmarks.gene.compare import compare, drawn, of_cohort, ratios
    from jobs.benchmarks.gene.profile import time_by_part
    from jobs.benchmarks.quality import scvi_tools

    if args.against:
        scvi_tools.require()
    recipe = recipe_from(args)
    if recipe.dataset:
        counts, batch = of_cohort(recipe.dataset, replace(recipe.gene.panel, n_genes=args.genes))
    else:
        counts, batch = drawn(SPOTS, args.genes, 8)
    names = ["stray", "stray, compiled", "stray, fp32", *([args.against] if args.against else [])]
    names += ["products", "products, sparse first layer", "products, fp32"]
    with ConsoleProgress() as progress:
        progress.start("rounds", "rounds", total=args.rounds * len(names))
        done = iter(range(args.rounds * len(names)))
        measured = compare(
            names,
            counts,
            batch,
            rounds=args.rounds,
            epochs=args.epochs,
            threads=args.cpus,
            on_run=lambda name, number: progress.update("rounds", next(done), f"round {number + 1}, {name}"),
        )
        progress.finish("rounds")
    of = {one.name: one for one in measured}
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
    for one in measured:
        cells = [one.name, f"{one.spots_per_second:,.0f}", f"{min(one.rates):,.0f} to {max(one.rates):,.0f}"]
        if args.against:
            middle, low, high = ratios(one, of[args.against])
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        cells.append(f"{ratios(one, of['products'])[0]:.0%}")
        table.add_row(*cells, f"{one.peak_bytes / 2**20:,.0f} MiB", f"{one.training_bytes / 2**20:,.0f} MiB")
    stdout.print(table)
    say(
        "products: the matrix products of a step alone, in the precision of `stray`, or exact (fp32); ratios are "
        "medians over rounds, with their range"
    )
    shares = sorted(time_by_part(counts, batch, args.cpus).items(), key=lambda item: -item[1])
    say(
        "where the operations of a step of `stray` spend their time (torch's profiler): "
        + ", ".join(f"{name} {share:.0%}" for name, share in shares)
    )
    return 0
