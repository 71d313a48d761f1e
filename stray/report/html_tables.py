"""The tables of the comparison page, as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

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
from stray.report.text import TextTable


def main_table(comparison: Comparison, table: SourceTable) -> str:
    """Return a table with one row per method: the comparison's metric against the baseline, and the pooled scores."""
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
    return table_of(head, rows)


def fold_table(table: SourceTable) -> str:
    """Return a table with one row per method, one column per fold."""
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
    return (
        table_of(["Method", *(f"Fold {escape(fold)}" for fold in table.folds)], rows) + f'<p class="muted">{note}</p>'
    )


def text_table(table: TextTable) -> str:
    """Return the HTML of a table that the console prints too."""
    rows = [
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>'
        for first, *others in table.rows
    ]
    note = f'<p class="muted">{escape(table.note)}</p>' if table.note else ""
    return f"<h3>{escape(table.title)}</h3>{table_of([*map(escape, table.head)], rows)}{note}"


def auc_table(table: SourceTable) -> str:
    """Return a table with one row per method, one column per class."""
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
    return table_of(["Method", *map(escape, shown)], rows)


def _cells(row: MethodRow) -> str:
    grid, _, missing = cells_text(row).partition(", ")
    return f"{grid}<small>{missing}</small>" if missing else grid


def _bounds(interval: tuple[float, float] | None) -> str:
    return f"<small>{number(interval[0])} to {number(interval[1])}</small>" if interval else ""


def table_of(head: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table that scrolls sideways where it is too wide; `head` and `rows` are HTML."""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
