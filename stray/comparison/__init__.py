"""The cells of an experiment, read back from MLflow, become a comparison of its methods."""

from __future__ import annotations

import json

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
"""Method that the others are compared with where the experiment has it and nothing else is asked for."""


def read_comparison(
    uri: str, experiment: str | None = None, metric: str = "balanced_accuracy", baseline: str | None = None
) -> Comparison:
    """Compare the methods of `experiment` (the one changed last where it is not named) by `metric`.

    Of each (method, fold, seed) the newest finished run on the newest dataset counts. Raises InputError when the
    store or the experiment is not there, no cell has finished, or `baseline` is none of its methods.
    """
    reader = MlflowReader(uri, experiment)
    notes: list[str] = []
    runs = newest_cells(reader, notes)
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
    """Return members of a list as a parameter holds it: JSON."""
    try:
        found = json.loads(text)
    except ValueError:
        return set()
    return set(map(str, found)) if isinstance(found, list) else set()
