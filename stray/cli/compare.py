"""Compare the methods of an experiment: a table here, and one HTML page with its figures.

stray compare                                        the experiment that was changed last, in the default store
stray compare --uri http://HOST:5000 --experiment her2st --out her2st.html
stray compare --metric macro_f1_known --baseline clip_mlp
stray compare --per-patient --markdown               tables to paste: every held-out patient, and pooled over them
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text

from stray.cli.text_tables import drawn
from stray.errors import InputError, Problem
from stray.report.tables import METRIC_NAMES, Comparison
from stray.report.text import TextTable, choice_tables, main_table, markdown, patient_tables

HELP = "compare the methods of an experiment: a table, and one HTML page"

DEFAULT_STORE = "stray-runs/mlflow.db"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray compare`."""
    parser.add_argument(
        "--uri",
        metavar="URI",
        help=f"MLflow store; default: MLFLOW_TRACKING_URI, else sqlite:///{DEFAULT_STORE}",
    )
    parser.add_argument("--experiment", metavar="NAME", help="MLflow experiment (default: the one changed last)")
    parser.add_argument(
        "--metric", choices=list(METRIC_NAMES), default="balanced_accuracy", help="main score of the table"
    )
    parser.add_argument("--baseline", metavar="METHOD", help="reference method of the comparisons (default: untrained)")
    parser.add_argument("--knn", action="store_true", help="also show the score of the kNN classifier")
    parser.add_argument(
        "--per-patient",
        action="store_true",
        help="also print one table per held-out patient: accuracy, balanced accuracy, macro-F1",
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument(
        "--out", metavar="PAGE.html", default="comparison.html", help="file of the HTML page (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the comparison on stdout and write the page. Raises InputError when there is nothing to compare."""
    from stray.cli.console import say, stdout

    uri = args.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(DEFAULT_STORE).resolve()}"
    comparison = compare(uri, args.experiment, args.out, metric=args.metric, baseline=args.baseline)
    show(comparison, stdout, knn=args.knn, per_patient=args.per_patient, as_markdown=args.markdown)
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
                    f"the page cannot be written there: {error.strerror}",
                    "name another place with --out",
                )
            ) from error
    return comparison


def show(
    comparison: Comparison,
    console: Console,
    *,
    knn: bool = False,
    per_patient: bool = False,
    as_markdown: bool = False,
) -> None:
    """Print the tables with their notes; as Markdown if `as_markdown`."""
    tables = list(_tables(comparison, knn, per_patient))
    if as_markdown:
        notes = [f"Note: {note}\n" for note in comparison.notes]
        console.print(Text("\n".join([*map(markdown, tables), *notes]).rstrip()), soft_wrap=True)
    else:
        notes = [Text(f"note: {note}", style="yellow") for note in comparison.notes]
        console.print(Group(*map(drawn, tables), *notes))


def _tables(comparison: Comparison, knn: bool, per_patient: bool) -> Iterator[TextTable]:
    for source in comparison.sources:
        yield main_table(comparison, source, knn=knn)
        if per_patient:
            yield from patient_tables(source)
    yield from choice_tables(comparison)
