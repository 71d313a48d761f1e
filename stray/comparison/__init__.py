"""Comparison of the methods of an experiment, from its runs in MLflow."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stray.comparison.cells import (
    choices,
    is_weak,
    label_sources,
    newest_cells,
    provenance,
    recipe_params,
    training_curves,
)
from stray.comparison.scoring import source_table
from stray.errors import InputError, Problem
from stray.report.tables import Comparison, cell_names
from stray.track.mlflow_reader import MlflowReader

UNTRAINED = "untrained"
"""Default baseline, where the experiment has a method of this name."""


def read_comparison(
    uri: str,
    experiment: str | None = None,
    metric: str = "balanced_accuracy",
    baseline: str | None = None,
    only: Sequence[str] = (),
) -> Comparison:
    """Compare methods by the newest finished run of each (method, fold, seed) on the newest dataset.

    Args:
        uri: Address of the MLflow store.
        experiment: Name of the MLflow experiment; None: the one changed last.
        metric: Name of the summary score that is compared.
        baseline: Method that the others are compared with; None: `UNTRAINED`, else the first method.
        only: Methods to compare; empty: all.

    Raises:
        InputError: There is no such store, experiment or baseline, or no cell has finished.
    """
    reader = MlflowReader(uri, experiment)
    notes: list[str] = []
    runs = [run for run in newest_cells(reader, notes) if not only or run.method in only]
    methods = list(dict.fromkeys(run.method for run in sorted(runs, key=lambda run: run.record.start_time)))
    if baseline is not None and baseline not in methods:
        raise InputError(
            Problem("--baseline", f"{baseline!r} is no method of it", f"name one of {', '.join(sorted(methods))}")
        )
    baseline = baseline or (UNTRAINED if UNTRAINED in methods else methods[0])
    methods = [baseline, *(method for method in methods if method != baseline)]
    cells = sorted({run.cell for run in runs})
    for method in methods:
        absent = sorted(set(cells) - {run.cell for run in runs if run.method == method})
        if absent:
            notes.append(
                f"{method} has no finished cell for {cell_names(absent)}: its mean and pooled scores are over fewer "
                "patients than the others'."
            )
    params = recipe_params(reader, runs)
    if judges := sorted({fold for fold, _ in cells} & _listed(params.get("search.chosen_on", ""))):
        notes.append(
            f"A search chose this recipe's settings by the scores on {', '.join(judges)}: scores on these patients are "
            "no estimate for others. Name patients in search.held_out, and search again."
        )
    if unread := [run for run in runs if run.predictions is None]:
        named = ", ".join(f"{run.method} ({cell_names([run.cell])})" for run in unread)
        notes.append(f"The predictions of {named} could not be read: pooled scores of these methods are left out.")
    sources = sorted(
        {source for run in runs for source in label_sources(run.record)}, key=lambda name: (is_weak(runs, name), name)
    )
    tables = tuple(source_table(runs, methods, source, metric, baseline) for source in sources)
    return Comparison(
        experiment=reader.experiment,
        metric=metric,
        baseline=baseline if len(methods) > 1 else None,
        sources=tables,
        choices=choices(runs),
        curves=training_curves(reader, runs),
        notes=tuple(notes),
        facts=provenance(reader, runs),
        params=params,
    )


def _listed(text: str) -> set[str]:
    """Return the members of a list that a parameter holds as JSON."""
    try:
        found = json.loads(text)
    except ValueError:
        return set()
    return set(map(str, found)) if isinstance(found, list) else set()
