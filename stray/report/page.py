"""A comparison as one self-contained HTML page: no script, nothing fetched, figures inline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from stray.report import figures
from stray.report.definitions import definitions
from stray.report.style import to_svg
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
from stray.report.text import choice_tables, patient_tables

_SETTINGS = {
    "dataset": "Dataset",
    "ingest.patch.size_um": "Patch, um",
    "ingest.patch.size_px": "Patch, px",
    "contrastive.image.name": "Image encoder",
    "contrastive.image.weights": "Its first weights",
    "contrastive.epochs": "Contrastive epochs",
    "gene.model.kind": "Gene model",
    "gene.epochs": "Gene epochs",
    "seeds": "Seeds",
}
"""Settings that are said at the top, where the recipe has them."""

_TEMPLATES = Environment(
    loader=PackageLoader("stray.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
_TEMPLATES.globals |= {
    function.__name__: function
    for function in (cells_text, choice_tables, definitions, delta_text, number, p_text, patient_tables, score_text)
}


@dataclass(frozen=True)
class _Figure:
    svg: str
    caption: str


def comparison_page(comparison: Comparison) -> str:
    """Return the page as text (UTF-8)."""
    settings = {name: comparison.params.get(key) for key, name in _SETTINGS.items()}
    methods = [row for table in comparison.sources[:1] if not table.weak for row in table.rows[1:] if row.cells]
    return _TEMPLATES.get_template("page.html").render(
        comparison=comparison,
        metric=METRIC_NAMES[comparison.metric],
        settings={name: value for name, value in settings.items() if value not in (None, "", "None")},
        n_methods=len(methods),
        best=max(methods, key=lambda row: row.mean, default=None),
        sources=[_source(comparison, table) for table in comparison.sources],
        curves=list(_curves(comparison)),
    )


def _source(comparison: Comparison, table: SourceTable) -> dict[str, object]:
    """Return the figures and notes of one label source, for the page."""
    return {
        "table": table,
        "best_mean": max((row.mean for row in table.rows[1:] if math.isfinite(row.mean)), default=math.nan),
        "scores": list(_scores(comparison, table)),
        "auc_classes": [name for name in table.classes if any(name in row.auc for row in table.rows)],
        "matrices": list(_matrices(table)),
    }


def _scores(comparison: Comparison, table: SourceTable) -> Iterator[_Figure]:
    name = METRIC_NAMES[comparison.metric]
    rows = [row for row in table.rows if row.cells]
    dots = figures.dots_per_fold(rows, name)
    yield _Figure(
        to_svg(dots, f"dots-{table.source}", f"{name} of every method, a dot a fold and seed"),
        f"{name.capitalize()} of every cell. Lines join the same fold and seed; the bar is the mean.",
    )
    if any(row.confusion_KK is not None for row in rows):
        recall = figures.recall_heatmap(rows, table.classes, table.support_K)
        yield _Figure(
            to_svg(recall, f"recall-{table.source}", "recall of each class by method"),
            "Share of each class's spots that were found, over the predictions of all folds.",
        )


def _matrices(table: SourceTable) -> Iterator[_Figure]:
    for row in [row for row in table.rows if row.cells][1:]:
        if row.confusion_KK is not None:
            matrix = figures.confusion_matrix(row.confusion_KK, table.classes)
            yield _Figure(
                to_svg(matrix, f"confusion-{table.source}-{row.method}", f"confusion matrix of {row.method}"),
                f"{row.method}: spots of all folds and seeds, coloured by the share of the true class.",
            )


def _curves(comparison: Comparison) -> Iterator[_Figure]:
    for metric, curves in comparison.curves.items():
        lines = figures.training_curves(curves, metric, "epoch")
        yield _Figure(to_svg(lines, f"curve-{metric}", f"{metric} by epoch"), "A line a fold and seed.")
