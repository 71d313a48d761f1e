"""A comparison as tables of text: for a terminal, a page, or Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stray.report.tables import (
    METRIC_NAMES,
    POOLED_SCORES,
    Cell,
    Chosen,
    Comparison,
    SourceTable,
    cells_text,
    delta_text,
    number,
    p_text,
    score_text,
)

SCORES_OF_PATIENTS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1_fold": "Macro-F1",
}
"""`POOLED_SCORES` as titles."""


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """Cells of text; the first `names` columns say what a row is."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """Note for the reader of the table."""
    names: int = 1


def main_table(comparison: Comparison, source: SourceTable, *, knn: bool = False) -> TextTable:
    """Return the table of all methods on one label source: a score of every cell, and the pooled ones."""
    against = comparison.baseline
    head = ["method", METRIC_NAMES[comparison.metric]]
    head += [f"against {against}", "sign-flip test"] if against else []
    head += ["kNN"] if knn else []
    head += ["pooled accuracy", "pooled balanced accuracy", "pooled macro-F1", "cells"]
    rows = []
    for row in source.rows:
        cells = [row.method, score_text(row)]
        cells += [delta_text(row.delta), p_text(row.delta)] if against else []
        cells += [number(row.knn_mean)] if knn else []
        cells += [number(row.accuracy), number(row.balanced_accuracy), number(row.macro_f1), cells_text(row)]
        rows.append(tuple(cells))
    weak = " (weak labels: agreement with them, not truth)" if source.weak else ""
    note = "\n".join(
        f"fold {fold}: no training patient has {', '.join(names)}; counts as 0 in balanced accuracy"
        for fold, names in source.missing_classes.items()
    )
    title = f"{comparison.experiment}, {source.source} labels{weak}"
    return TextTable(title=title, head=tuple(head), rows=tuple(rows), note=note)


def patient_tables(source: SourceTable) -> Iterator[TextTable]:
    """Yield a table of each of `POOLED_SCORES`: every method on every held-out patient, mean over seeds, and over all
    their spots.
    """
    for score in POOLED_SCORES:
        rows = []
        for row in source.rows:
            values = row.by_score.get(score, {})
            own = [[value for cell, value in values.items() if cell[0] == fold] for fold in source.folds]
            means = [number(float(np.mean(found))) if found else "-" for found in own]
            rows.append((row.method, *means, number(row.pooled.get(score, float("nan")))))
        title = f"{SCORES_OF_PATIENTS[score]} of every held-out patient, {source.source} labels"
        note = "" if score == "accuracy" else "Of a patient over the classes that it has, pooled over all of them."
        yield TextTable(title=title, head=("method", *source.folds, "pooled"), rows=tuple(rows), note=note)


def choice_tables(comparison: Comparison) -> Iterator[TextTable]:
    """Return the choices of each method that chooses among others, and the scores that it chose by."""
    order = [row.method for table in comparison.sources for row in table.rows]
    for method, cells in comparison.choices.items():
        scored = {name for chosen in cells.values() for name in chosen.scores}
        names = [name for name in dict.fromkeys([*order, *sorted(scored)]) if name in scored]
        several = len({seed for _, seed in cells}) > 1
        rows = tuple(_choice_row(cell, chosen, names, several) for cell, chosen in cells.items())
        head = ("held out", f"{method} is", "chosen on", *names)
        note = "Balanced accuracy on the patients of the third column, by methods trained without these and without "
        note += "the held-out one."
        yield TextTable(title=f"What {method} was on each fold", head=head, rows=rows, note=note)


def _choice_row(cell: Cell, chosen: Chosen, names: list[str], several: bool) -> tuple[str, ...]:
    fold = f"{cell[0]}, seed {cell[1]}" if several else cell[0]
    scores = [number(chosen.scores.get(name, float("nan"))) for name in names]
    return (fold, chosen.method, chosen.judges, *scores)


def markdown(table: TextTable) -> str:
    """Return the table in GitHub's Markdown, numbers to the right."""
    lines = [
        _line(table.head),
        _line(["---"] * table.names + ["---:"] * (len(table.head) - table.names)),
        *map(_line, table.rows),
    ]
    note = f"\n\n{table.note}" if table.note else ""
    return f"**{table.title}**\n\n" + "\n".join(lines) + note + "\n"


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
