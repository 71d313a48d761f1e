"""A comparison as one self-contained HTML page: no script, nothing fetched, figures inline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from stray.report import figures
from stray.report.definitions import definitions
from stray.report.style import to_svg
from stray.report.tables import (
    METRIC_NAMES,
    Comparison,
    MethodRow,
    SourceTable,
    cells_text,
    delta_text,
    number,
    p_text,
    score_text,
)
from stray.report.text import TextTable, choice_tables, patient_tables

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
    """The page as text (UTF-8)."""
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
    """Everything about one label source."""
    badge = '<span class="badge">weak labels</span>' if table.weak else ""
    parts = [f"<h2>Scores on {escape(table.source)} labels{badge}</h2>"]
    if table.weak:
        parts.append(
            "<p>These labels are not truth: read the scores as agreement with them, and do not set them beside scores "
            "on annotated labels.</p>"
        )
    parts.append(_main_table(comparison, table))
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
    parts.append("<h3>Fold by fold</h3>" + _fold_table(table))
    parts += map(_text_table, patient_tables(table))
    if any(row.auc for row in rows):
        parts.append("<h3>Each class against the rest: AUC</h3>" + _auc_table(table))
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


def _main_table(comparison: Comparison, table: SourceTable) -> str:
    name = METRIC_NAMES[comparison.metric]
    head = [
        "Method",
        f"{name.capitalize()}<small>mean ± sd over cells</small>",
        f"kNN<small>{name}</small>",
        "Accuracy<small>pooled</small>",
        "Balanced accuracy<small>pooled</small>",
        "Macro-F1<small>pooled</small>",
        "Cells",
    ]
    if comparison.baseline:
        head.insert(2, f"Against {escape(comparison.baseline)}<small>paired; sign-flip test</small>")
    best = max((row.mean for row in table.rows[1:] if math.isfinite(row.mean)), default=math.nan)
    rows = []
    for index, row in enumerate(table.rows):
        strength = "head best" if row.mean == best and index else "head"
        cells = [
            f'<th scope="row">{escape(row.method)}</th>',
            f'<td class="{strength}">{score_text(row)}</td>',
            f"<td>{number(row.knn_mean)}</td>",
            f"<td>{number(row.accuracy)}</td>",
            f"<td>{number(row.balanced_accuracy)}</td>",
            f"<td>{number(row.macro_f1)}</td>",
            f"<td>{_cells(row)}</td>",
        ]
        if comparison.baseline:
            test = f"<small>{p_text(row.delta)}</small>" if row.delta else ""
            cells.insert(2, f"<td>{delta_text(row.delta)}{test}</td>")
        rows.append(f"<tr{' class=reference' if index == 0 else ''}>{''.join(cells)}</tr>")
    return _table(head, rows)


def _fold_table(table: SourceTable) -> str:
    rows = []
    for index, row in enumerate(table.rows):
        cells = [f'<th scope="row">{escape(row.method)}</th>']
        for fold in table.folds:
            own = {cell: value for cell, value in row.cells.items() if cell[0] == fold}
            if not own:
                cells.append("<td>missing</td>")
                continue
            text = number(sum(own.values()) / len(own))
            bounds = [row.intervals[cell] for cell in own if cell in row.intervals]
            if bounds:
                text += _bounds((min(low for low, _ in bounds), max(high for _, high in bounds)))
            cells.append(f"<td>{text}</td>")
        rows.append(f"<tr{' class=reference' if index == 0 else ''}>{''.join(cells)}</tr>")
    note = "Mean over seeds; below it the 95% interval over blocks of tissue (with several seeds, the widest)."
    return _table(["Method", *(f"Fold {escape(fold)}" for fold in table.folds)], rows) + f'<p class="muted">{note}</p>'


def _choices(comparison: Comparison) -> str:
    tables = "".join(map(_text_table, choice_tables(comparison)))
    return f"<h2>What was chosen</h2>\n{tables}" if tables else ""


def _text_table(table: TextTable) -> str:
    rows = [
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>'
        for first, *others in table.rows
    ]
    note = f'<p class="muted">{escape(table.note)}</p>' if table.note else ""
    return f"<h3>{escape(table.title)}</h3>{_table([*map(escape, table.head)], rows)}{note}"


def _auc_table(table: SourceTable) -> str:
    shown = [name for name in table.classes if any(name in row.auc for row in table.rows)]
    rows = [
        f'<tr><th scope="row">{escape(row.method)}</th>'
        + "".join(
            f"<td>{number(row.auc.get(name, math.nan))}{_bounds(row.auc_interval.get(name))}</td>" for name in shown
        )
        + "</tr>"
        for row in table.rows[1:]
        if row.auc
    ]
    return _table(["Method", *map(escape, shown)], rows)


def _cells(row: MethodRow) -> str:
    grid, _, missing = cells_text(row).partition(", ")
    return f"{grid}<small>{missing}</small>" if missing else grid


def _bounds(interval: tuple[float, float] | None) -> str:
    return f"<small>{number(interval[0])} to {number(interval[1])}</small>" if interval else ""


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
    return f"<details><summary>The whole recipe</summary>{_table(['Setting', 'Value'], rows)}</details>"


def _fact(name: str, value: str) -> str:
    return f"<div><span>{escape(name)}</span>{escape(value)}</div>"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in pairs)}</dl>"


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
