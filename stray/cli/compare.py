"""Compare the methods of an experiment: a table here, and one HTML page with its figures.

stray compare                                        the experiment that was changed last, in the default store
stray compare --uri http://HOST:5000 --experiment her2st --out her2st.html
stray compare --metric macro_f1_known --baseline clip_mlp
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stray.errors import InputError, Problem
from stray.report.tables import (
    METRIC_NAMES,
    Comparison,
    SourceTable,
    cells_text,
    delta_text,
    number,
    p_text,
    score_text,
)

HELP = "compare the methods of an experiment: a table, and one HTML page"

DEFAULT_STORE = "stray-runs/mlflow.db"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray compare`."""
    parser.add_argument(
        "--uri",
        metavar="URI",
        help=f"MLflow store; MLFLOW_TRACKING_URI where it is not given, else sqlite:///{DEFAULT_STORE}",
    )
    parser.add_argument("--experiment", metavar="NAME", help="MLflow experiment; the one that was changed last")
    parser.add_argument(
        "--metric", choices=list(METRIC_NAMES), default="balanced_accuracy", help="score that heads the table"
    )
    parser.add_argument("--baseline", metavar="METHOD", help="method that the others are compared with (untrained)")
    parser.add_argument("--knn", action="store_true", help="show the kNN vote's score too")
    parser.add_argument("--out", metavar="PAGE.html", default="comparison.html", help="where the page goes")


def run(args: argparse.Namespace) -> int:
    """Print the comparison on stdout and write the page. Raises InputError when there is nothing to compare."""
    from stray.cli.console import say, stdout

    uri = args.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(DEFAULT_STORE).resolve()}"
    comparison = compare(uri, args.experiment, args.out, metric=args.metric, baseline=args.baseline)
    show(comparison, stdout, knn=args.knn)
    say(f"The page: {Path(args.out).resolve()}")
    return 0


def compare(
    uri: str,
    experiment: str | None,
    out_html: str | os.PathLike[str] | None,
    *,
    metric: str = "balanced_accuracy",
    baseline: str | None = None,
) -> Comparison:
    """Read the experiment and write its page (unless `out_html` is None).

    Raises InputError when the store, the experiment or a finished cell is not there, or the page cannot be written.
    """
    from stray.comparison import read_comparison
    from stray.report.page import comparison_page

    comparison = read_comparison(uri, experiment, metric, baseline)
    if out_html is not None:
        try:
            Path(out_html).parent.mkdir(parents=True, exist_ok=True)
            Path(out_html).write_text(comparison_page(comparison), encoding="utf-8")
        except OSError as error:
            raise InputError(
                Problem(
                    os.fspath(out_html),
                    f"the page cannot be written: {error.strerror}",
                    "name another place with --out",
                )
            ) from error
    return comparison


def show(comparison: Comparison, console: Console, *, knn: bool = False) -> None:
    """Print the tables and what a reader must know about them."""
    console.print(render(comparison, knn=knn))


def render(comparison: Comparison, *, knn: bool = False) -> RenderableType:
    """The comparison for a terminal: a table a label source, and the notes."""
    parts: list[RenderableType] = []
    for source in comparison.sources:
        parts += [_table(comparison, source, knn), *_remarks(source), Text()]
    parts += [Text(f"note: {note}", style="yellow") for note in comparison.notes]
    return Group(*parts)


def _table(comparison: Comparison, source: SourceTable, knn: bool) -> Table:
    name = METRIC_NAMES[comparison.metric]
    weak = " [yellow](weak labels: agreement with them, not truth)[/]" if source.weak else ""
    table = Table(
        title=f"[bold]{escape(comparison.experiment)}[/], {escape(source.source)} labels{weak}",
        title_justify="left",
        title_style="",
        header_style="bold",
    )
    table.add_column("method")
    table.add_column(name, justify="right")
    if comparison.baseline:
        table.add_column(f"against {escape(comparison.baseline)}", justify="right")
        table.add_column("sign-flip test", justify="right")
    if knn:
        table.add_column("kNN", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("macro-F1", justify="right")
    table.add_column("cells", justify="right")
    for index, row in enumerate(source.rows):
        cells = [escape(row.method), score_text(row)]
        if comparison.baseline:
            cells += [delta_text(row.delta), p_text(row.delta)]
        if knn:
            cells.append(number(row.knn_mean))
        cells += [number(row.accuracy), number(row.macro_f1), cells_text(row)]
        table.add_row(*cells, style="dim" if index == 0 else None)
    return table


def _remarks(source: SourceTable) -> list[Text]:
    return [
        Text(f"fold {fold}: no training patient has {', '.join(names)}; counts as 0 in balanced accuracy", style="dim")
        for fold, names in source.missing_classes.items()
    ]
