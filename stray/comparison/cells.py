"""Selection of the newest runs of an experiment, and reading of their contents."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from stray.cohort.parquet import read_results
from stray.errors import InputError, Problem, without_secrets
from stray.evaluate import FACTS
from stray.report.tables import Cell, Chosen
from stray.track import records
from stray.track.mlflow_reader import MlflowReader
from stray.track.records import RunRecord

_CURVE = re.compile(r"(gene|contrastive)/(loss|elbo|validation_\w+)")
_MOST_CURVES = 4


@dataclass(frozen=True)
class CellRun:
    """One evaluated cell."""

    method: str
    """Name of its method."""
    cell: Cell
    """Its (fold, seed)."""
    record: RunRecord
    """Its run in the store."""
    predictions: pa.Table | None
    """`Evaluation.table`; None where the store has none that can be read."""
    facts: dict = field(default_factory=dict)
    """`Evaluation.facts`; empty without predictions."""


def newest_cells(reader: MlflowReader, notes: list[str]) -> list[CellRun]:
    """Return the newest run of each cell, oldest first; append to `notes` why runs are left out.

    Raises InputError where none has finished.
    """
    found = reader.runs({records.KIND: records.CELL})
    whole = [run for run in found if all(tag in run.tags for tag in (records.METHOD, records.FOLD, records.SEED))]
    finished = [run for run in whole if run.status == "FINISHED" and any(label_sources(run))]
    if not finished:
        open_runs = ", ".join(f"{run.name} ({run.status})" for run in whole) or "none"
        raise InputError(
            Problem(
                f"{reader.uri} {reader.experiment}",
                f"no cell has finished, so there is nothing to compare; cells: {open_runs}",
                "train first (`stray train RECIPE`), or name another experiment with --experiment",
            )
        )
    counted = _newest(finished, notes)
    for run in whole:
        if run.status != "FINISHED" and _place(run) not in counted:
            notes.append(f"{run.name} is {run.status} and not among the cells.")
    with tempfile.TemporaryDirectory() as folder:
        return [
            _read(reader, place, run, f"{folder}/{index}")
            for index, (place, run) in enumerate(reversed(counted.items()))
        ]


def _newest(finished: Sequence[RunRecord], notes: list[str]) -> dict[tuple[str, Cell], RunRecord]:
    """Return the newest run of each cell on the dataset of the newest run; `finished` has the newest first."""
    dataset = finished[0].tags.get(records.DATASET, "")
    counted: dict[tuple[str, Cell], RunRecord] = {}
    own = [run for run in finished if run.tags.get(records.DATASET, "") == dataset]
    for run in own:
        counted.setdefault(_place(run), run)
    if len(own) < len(finished):
        notes.append(f"{len(finished) - len(own)} finished cells on another dataset than the newest one are left out.")
    if len(counted) < len(own):
        notes.append(f"{len(own) - len(counted)} finished cells were run again later; the newest of each counts.")
    if len({run.parent for run in counted.values()}) > 1:
        notes.append("The cells come from several runs of the experiment; their recipes may differ.")
    return counted


def _read(reader: MlflowReader, place: tuple[str, Cell], run: RunRecord, folder: str) -> CellRun:
    """Return a run with its predictions, where the store has them."""
    table = _predictions(reader, run, folder)
    facts = {} if table is None else json.loads((table.schema.metadata or {}).get(FACTS, b"{}"))
    return CellRun(*place, run, table, facts)


def _predictions(reader: MlflowReader, run: RunRecord, folder: str) -> pa.Table | None:
    path = reader.download(run.run_id, records.PREDICTIONS, folder)
    if path is None:
        return None
    try:
        return read_results(path)
    except InputError:
        return None


def _place(run: RunRecord) -> tuple[str, Cell]:
    seed = run.tags[records.SEED]
    return run.tags[records.METHOD], (run.tags[records.FOLD], int(seed) if seed.lstrip("-").isdigit() else 0)


def label_sources(run: RunRecord) -> list[str]:
    """Return the label sources that a run was scored on."""
    names = (re.fullmatch(r"eval/([^/]+)/probe/accuracy", name) for name in run.metrics)
    return [match.group(1) for match in names if match]


def is_weak(runs: Iterable[CellRun], source: str) -> bool:
    """Return whether any of the runs marked the source's labels as weak."""
    return any(run.record.metrics.get(f"eval/{source}/weak", 0.0) > 0 for run in runs)


def training_curves(
    reader: MlflowReader, runs: list[CellRun]
) -> dict[str, dict[tuple[str, Cell], tuple[tuple[float, float], ...]]]:
    """Return (step, value) of each loss by its name and by (method, cell), for losses with more than one step."""
    names = sorted(
        {name for run in runs for name in run.record.metrics if _CURVE.fullmatch(name)},
        key=lambda name: (len(name), name),
    )
    curves = {}
    for name in names:
        found = {}
        for run in runs:
            if name in run.record.metrics:
                points = reader.history(run.record.run_id, name)
                if len(points) > 1:
                    found[run.method, run.cell] = tuple((float(step), value) for step, value in points)
        if found:
            curves[name] = found
        if len(curves) == _MOST_CURVES:
            break
    return curves


def choices(runs: list[CellRun]) -> dict[str, dict[Cell, Chosen]]:
    """Return the choices of the methods that choose among others, cell by cell."""
    found: dict[str, dict[Cell, Chosen]] = {}
    for run in sorted(runs, key=lambda run: run.cell):
        if records.CHOSEN in run.record.tags:
            scored = {name: value for name, value in run.record.metrics.items() if name.startswith(records.CHOICE)}
            found.setdefault(run.method, {})[run.cell] = Chosen(
                method=run.record.tags[records.CHOSEN],
                judges=run.record.tags.get(records.JUDGES, ""),
                scores={name.removeprefix(records.CHOICE): value for name, value in scored.items()},
            )
    return found


def provenance(reader: MlflowReader, runs: list[CellRun]) -> dict[str, str]:
    """Return the origin of the numbers by its label: store, runs, dates, dataset and version."""

    def tag(name: str) -> str:
        return ", ".join(sorted({run.record.tags[name] for run in runs if name in run.record.tags})) or "not recorded"

    first, last = (runs[0].record.start_time, max(run.record.end_time or run.record.start_time for run in runs))
    return {
        "MLflow store": without_secrets(reader.uri),
        "MLflow experiment": reader.experiment,
        "Parent runs": ", ".join(sorted({run.record.parent for run in runs if run.record.parent})) or "none",
        "Cells": str(len(runs)),
        "Trained": f"{_time(min(first, *(run.record.start_time for run in runs)))} to {_time(last)}",
        "Dataset digest": tag(records.DATASET),
        "stray": tag(records.VERSION),
        "Ray job": tag(records.JOB),
    }


def recipe_params(reader: MlflowReader, runs: list[CellRun]) -> dict[str, str]:
    """Return the recipe: of the parent run, or of the newest cell where the parent logged none."""
    parent = reader.run(runs[-1].record.parent) if runs[-1].record.parent else None
    return dict(sorted((parent.params if parent and parent.params else runs[-1].record.params).items()))


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
