"""Output of `python jobs/benchmark.py quality`: both implementations side by side, as a table or as Markdown."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from jobs.benchmarks.common import all_cpus, ray_session
from stray.cli.arguments import recipe_from
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress
from stray.cli.text_tables import drawn
from stray.report.tables import number
from stray.report.text import TextTable, markdown

if TYPE_CHECKING:
    from jobs.benchmarks.quality.summary import Quality, Spread


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `quality` alone takes."""
    group = parser.add_argument_group("quality")
    group.add_argument(
        "--methods",
        metavar="NAME",
        nargs="+",
        default=[],
        help="methods of the recipe (default: all that both can train)",
    )
    group.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="trainings side by side, a thread each (all CPUs); contrastive: workers of a training (1)",
    )
    group.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    group.add_argument(
        "--json",
        metavar="FILE",
        help="JSON file of the numbers (default: OUTPUT/NAME/quality/quality.json; contrastive: none)",
    )


def run(args: argparse.Namespace) -> int:
    """Compare, print the tables, write the numbers. Raises InputError for what is at fault in the input."""
    recipe = recipe_from(args)
    from jobs.benchmarks.quality import cluster as quality
    from stray import storage
    from stray.on_ray.waiting import patience

    workers = args.workers or all_cpus()
    waiting = recipe.run.wait_minutes
    with ray_session(workers), ConsoleProgress() as progress, patience(waiting, progress.say):
        found = quality.compare_quality(recipe, methods=args.methods, workers=workers, progress=progress)
    path = args.json or storage.join(quality.results_folder(recipe), "quality.json")
    storage.write_bytes(path, json.dumps(_without_nan(asdict(found)), indent=1).encode())
    for table in (_overview(found), _gaps(found), _patients(found)):
        stdout.print(Text(markdown(table)) if args.markdown else drawn(table), soft_wrap=args.markdown)
    say(f"The numbers: {path}")
    return 0


def _overview(found: Quality) -> TextTable:
    from jobs.benchmarks.quality.summary import SCORES

    rows = [("majority class", "", "", "", *(number(found.majority[name]) for name in SCORES), "")]
    for row in found.rows:
        own = _spread(row.own_elbo, 1) if row.own_elbo else ""
        pooled = [_spread(row.pooled[name]) for name in SCORES]
        rows.append((row.method, row.side, _spread(row.elbo, 1), own, *pooled, f"{row.seconds.mean:.0f}"))
    header = ("method", "implementation", "ELBO a held-out spot", "as it tells itself", *SCORES.values(), "seconds")
    folds, seeds = len(found.folds), len(found.seeds)
    over = "mean ± sd over seeds [smallest, largest]; " if seeds > 1 else ""
    title = (
        f"{folds} patient{'s' * (folds != 1)} held out in turn, {seeds} seed{'s' * (seeds != 1)}; {over}probe: pooled "
        "predictions"
    )
    return TextTable(title=title, head=header, rows=tuple(rows), names=2)


def _gaps(found: Quality) -> TextTable:
    from jobs.benchmarks.quality.summary import SCORES

    rows = []
    for gap in found.gaps:
        low, high = gap.elbo_share_range
        rows.append((gap.method, "ELBO", f"{gap.elbo_share:+.2%}", f"{low:+.2%} to {high:+.2%}", "", ""))
        for name, words in SCORES.items():
            cells = gap.cells[name]
            p = f"p = {cells.p:.2f}, {cells.n_folds} folds" if cells.p == cells.p else "too few folds"
            within = {None: "-", True: "yes", False: "no"}[gap.within[name]]
            rows.append(
                (gap.method, words, f"{gap.pooled[name]:+.3f}", f"{cells.mean:+.3f} ± {number(cells.sd)}", p, within)
            )
    header = (
        "method",
        "stray minus scvi-tools",
        "means",
        "cells, one by one",
        "sign-flip test",
        "within the seeds' range",
    )
    return TextTable(title="How far apart they are", head=header, rows=tuple(rows), names=2)


def _patients(found: Quality) -> TextTable:
    from jobs.benchmarks.quality.summary import SCORES

    rows = [
        (fold, row.method, row.side, *(_spread(row.patients[fold][name]) for name in SCORES))
        for fold in found.folds
        for row in found.rows
    ]
    head = ("patient", "method", "implementation", *SCORES.values())
    return TextTable(title="By patient held out", head=head, rows=tuple(rows), names=3)


def _spread(spread: Spread, digits: int = 3) -> str:
    if len(spread.values) == 1:
        return number(spread.mean, digits)
    low, high = (number(end(spread.values), digits) for end in (min, max))
    return f"{number(spread.mean, digits)} ± {number(spread.sd, digits)} [{low}, {high}]"


def _without_nan(tree: Any) -> Any:
    """Return the tree with null for nan, which JSON lacks: a spread over one seed."""
    if isinstance(tree, dict):
        return {key: _without_nan(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_without_nan(value) for value in tree]
    return None if isinstance(tree, float) and math.isnan(tree) else tree
