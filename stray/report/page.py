"""A comparison as one self-contained HTML page: no script, nothing fetched, figures inline."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources

from stray.report import figures
from stray.report.definitions import definitions
from stray.report.html_tables import auc_table, fold_table, main_table, table_of, text_table
from stray.report.style import to_svg
from stray.report.tables import (
    METRIC_NAMES,
    Comparison,
    SourceTable,
    score_text,
)
from stray.report.text import choice_tables, patient_tables

_RECIPE_FACTS = {
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


def comparison_page(comparison: Comparison) -> str:
    """Return the page as text (UTF-8)."""
    style = resources.files("stray.report").joinpath("page.css").read_text(encoding="utf-8")
    body = [_head(comparison), _notes(comparison)]
    for table in comparison.sources:
        body.append(_source(comparison, table))
    body.append(_choices(comparison))
    body.append(_curves(comparison))
    body.append(_section("What the numbers mean", _pairs(definitions())))
    body.append(_section("Where they come from", _pairs(comparison.facts.items()) + _params(comparison)))
    title = f"{comparison.experiment}: methods compared"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(comparison: Comparison) -> str:
    facts = {
        name: comparison.params[key]
        for key, name in _RECIPE_FACTS.items()
        if comparison.params.get(key) not in (None, "", "None")
    }
    trusted = [table for table in comparison.sources if not table.weak]
    sentence = "No trusted label source was scored; what follows are scores on weak labels."
    if trusted:
        methods = [row for row in trusted[0].rows[1:] if row.cells]
        best = max(methods, key=lambda row: row.mean)
        sentence = (
            f"{len(methods)} method{'s' * (len(methods) != 1)} on patients that no training step had seen. Highest "
            f"{METRIC_NAMES[comparison.metric]}: {best.method}, {score_text(best)}."
        )
    return f'<h1>{escape(comparison.experiment)}</h1>\n<p class="lead">{escape(sentence)}</p>\n' + (
        f'<div class="facts">{"".join(_fact(*pair) for pair in facts.items())}</div>' if facts else ""
    )


def _notes(comparison: Comparison) -> str:
    if not comparison.notes:
        return ""
    return f'<div class="notes"><ul>{"".join(f"<li>{escape(note)}</li>" for note in comparison.notes)}</ul></div>'


def _source(comparison: Comparison, table: SourceTable) -> str:
    """Return the part of the page about one label source."""
    badge = '<span class="badge">weak labels</span>' if table.weak else ""
    parts = [f"<h2>Scores on {escape(table.source)} labels{badge}</h2>"]
    if table.weak:
        parts.append(
            "<p>These labels are not truth: read the scores as agreement with them, and do not set them beside scores "
            "on annotated labels.</p>"
        )
    parts.append(main_table(comparison, table))
    for fold, names in table.missing_classes.items():
        parts.append(
            f'<p class="muted">Fold {escape(fold)}: no training patient has {escape(", ".join(names))}, so no method '
            "can find it there; it counts as 0 in balanced accuracy.</p>"
        )
    name = METRIC_NAMES[comparison.metric]
    rows = [row for row in table.rows if row.cells]
    drawn = [
        _figure(
            to_svg(
                figures.dots_per_fold(rows, name),
                f"dots-{table.source}",
                f"{name} of every method, a dot a fold and seed",
            ),
            f"{name.capitalize()} of every cell. Lines join the same fold and seed; the bar is the mean.",
        )
    ]
    if any(row.confusion_KK is not None for row in rows):
        drawn.append(
            _figure(
                to_svg(
                    figures.recall_heatmap(rows, table.classes, table.support_K),
                    f"recall-{table.source}",
                    "recall of each class by method",
                ),
                "Share of each class's spots that were found, over the predictions of all folds.",
            )
        )
    parts.append(f'<div class="figures">{"".join(drawn)}</div>')
    parts.append("<h3>Fold by fold</h3>" + fold_table(table))
    parts += map(text_table, patient_tables(table))
    if any(row.auc for row in rows):
        parts.append("<h3>Each class against the rest: AUC</h3>" + auc_table(table))
    matrices = [
        _figure(
            to_svg(
                figures.confusion_matrix(row.confusion_KK, table.classes),
                f"confusion-{table.source}-{row.method}",
                f"confusion matrix of {row.method}",
            ),
            f"{row.method}: spots of all folds and seeds, coloured by the share of the true class.",
        )
        for row in rows[1:]
        if row.confusion_KK is not None
    ]
    if matrices:
        parts.append(f'<h3>What was taken for what</h3><div class="figures small">{"".join(matrices)}</div>')
    return "\n".join(parts)


def _choices(comparison: Comparison) -> str:
    tables = "".join(map(text_table, choice_tables(comparison)))
    return f"<h2>What was chosen</h2>\n{tables}" if tables else ""


def _curves(comparison: Comparison) -> str:
    if not comparison.curves:
        return ""
    drawn = [
        _figure(
            to_svg(figures.training_curves(curves, metric, "epoch"), f"curve-{metric}", f"{metric} by epoch"),
            "A line a fold and seed.",
        )
        for metric, curves in comparison.curves.items()
    ]
    return f'<h2>Training</h2><div class="figures">{"".join(drawn)}</div>'


def _params(comparison: Comparison) -> str:
    if not comparison.params:
        return ""
    rows = [f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in comparison.params.items()]
    return f"<details><summary>The whole recipe</summary>{table_of(['Setting', 'Value'], rows)}</details>"


def _fact(name: str, value: str) -> str:
    return f"<div><span>{escape(name)}</span>{escape(value)}</div>"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in pairs)}</dl>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
