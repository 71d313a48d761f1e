"""Cells become the rows of a table, a label source at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stray.comparison.cells import CellRun, is_weak, label_sources
from stray.metrics.naming import safe_name
from stray.metrics.paired import holm, paired_difference
from stray.metrics.scores import confusion_matrix, summarise
from stray.report.tables import MAJORITY, POOLED_SCORES, Cell, Delta, MethodRow, SourceTable


def source_table(runs: list[CellRun], methods: list[str], source: str, metric: str, baseline: str) -> SourceTable:
    """Return the table of all methods on one label source."""
    runs = [run for run in runs if source in label_sources(run.record)]
    cells = {run.cell for run in runs}
    answers = {id(run): _answers(run.predictions, source) for run in runs if run.predictions is not None}
    spots = {key: np.array(columns.pop("spot_id"), dtype=object) for key, columns in answers.items()}
    names = sorted({str(name) for labels in answers.values() for column in labels.values() for name in column})
    code_of = {name: code for code, name in enumerate(names)}
    coded = {
        key: {
            column: np.array([code_of[name] for name in labels], dtype=np.int64) for column, labels in columns.items()
        }
        for key, columns in answers.items()
    }
    one_of_cell = {run.cell: run for run in reversed(runs)}
    one_of_fold = {run.cell[0]: run for run in runs if id(run) in coded}
    support_K = np.zeros(len(names), dtype=np.int64)
    for run in one_of_fold.values():
        support_K += np.bincount(coded[id(run)]["label"], minlength=len(names))

    rows = [_row(MAJORITY, "majority", list(one_of_cell.values()), coded, names, source, metric, cells)]
    for method in methods:
        own = [run for run in runs if run.method == method]
        if own:
            rows.append(_row(method, "probe", own, coded, names, source, metric, cells))
    reference = next((row for row in rows if row.method == baseline), None)
    for index, row in enumerate(rows):
        if reference is not None and row.method not in (MAJORITY, baseline):
            rows[index] = replace(row, delta=_delta(row, reference, runs, coded, spots, len(names), metric))
    tested = [index for index, row in enumerate(rows) if row.delta is not None]
    corrected = holm([delta.p for index in tested if (delta := rows[index].delta) is not None])
    for index, p in zip(tested, corrected, strict=True):
        if (delta := rows[index].delta) is not None:
            rows[index] = replace(rows[index], delta=replace(delta, p=p))
    missing = {
        fold: tuple(names)
        for fold, run in one_of_fold.items()
        if (names := {safe_name(key): value for key, value in run.facts.get("missing_classes", {}).items()}.get(source))
    }
    return SourceTable(
        source=source,
        weak=is_weak(runs, source),
        classes=tuple(code_of),
        support_K=support_K,
        rows=tuple(rows),
        missing_classes=dict(sorted(missing.items())),
    )


def _answers(predictions: pa.Table, source: str) -> dict[str, list[str]]:
    """Return labels and predictions of the spots that are scored on `source`."""
    sources = predictions.column("label_source").to_pylist()
    mask = [name is not None and safe_name(name) == source for name in sources]
    picked = predictions.filter(pa.array(mask)).filter(pc.field("scored"))
    return {column: picked.column(column).to_pylist() for column in ("spot_id", "label", "probe", "majority")}


def _delta(
    row: MethodRow,
    reference: MethodRow,
    runs: list[CellRun],
    coded: dict[int, dict[str, NDArray[np.int64]]],
    spots: dict[int, NDArray],
    n_classes: int,
    metric: str,
) -> Delta | None:
    """Return the difference of a method to the baseline, each cell on the spots that both scored; None where they share
    no cell.
    """
    run_of = {(run.method, run.cell): id(run) for run in reversed(runs)}
    own, other, partial = dict(row.cells), dict(reference.cells), 0
    for cell in sorted(set(own) & set(other)):
        keys = [run_of[method, cell] for method in (row.method, reference.method)]
        if not all(key in spots for key in keys):
            continue  # without predictions the scores are all that is known
        first, second = (spots[key].astype(str) for key in keys)
        common, *places = np.intersect1d(first, second, return_indices=True)
        if len(common) == len(spots[keys[0]]) == len(spots[keys[1]]):
            continue
        partial += 1
        scores = []
        for key, place in zip(keys, places, strict=True):
            confusion = confusion_matrix(coded[key]["label"][place], coded[key]["probe"][place], n_classes)
            scores.append(float(summarise(confusion, np.ones(n_classes, dtype=bool)).get(metric, np.nan)))
        own[cell], other[cell] = scores
        if not np.isfinite(scores).all():
            del own[cell], other[cell]
    found = paired_difference(own, other)
    if found is None:
        return None
    note = "on the spots that both scored" if partial else ""
    return Delta(mean=found.mean, sd=found.sd, n_pairs=found.n_pairs, n_folds=found.n_folds, p=found.p, note=note)


def _row(
    name: str,
    classifier: str,
    runs: list[CellRun],
    coded: dict[int, dict[str, NDArray[np.int64]]],
    classes: list[str],
    source: str,
    metric: str,
    cells: set[Cell],
) -> MethodRow:
    """Return the row of one method, or of the majority class, over its cells."""
    place = f"eval/{source}/{classifier}"

    def values(key: str) -> dict[Cell, float]:
        return {run.cell: run.record.metrics[key] for run in runs if key in run.record.metrics}

    low, high = values(f"{place}/{metric}_low"), values(f"{place}/{metric}_high")
    whole = all(id(run) in coded for run in runs)
    pooled, summaries = np.zeros((len(classes), len(classes)), dtype=np.int64), []
    for seed in sorted({run.cell[1] for run in runs}) if whole else ():
        own = [coded[id(run)] for run in runs if run.cell[1] == seed]
        truth, prediction = (np.concatenate([one[column] for one in own]) for column in ("label", classifier))
        confusion = confusion_matrix(truth, prediction, len(classes))
        pooled += confusion
        summaries.append(summarise(confusion, np.ones(len(classes), dtype=bool)))
    areas = {one: list(values(f"{place}/auc/{safe_name(one)}").values()) for one in classes}
    auc_interval = {}
    for one in classes if len({run.cell[0] for run in runs}) == 1 else ():
        lows, highs = (values(f"{place}/auc_{end}/{safe_name(one)}").values() for end in ("low", "high"))
        if lows and highs:
            auc_interval[one] = (min(lows), max(highs))
    return MethodRow(
        method=name,
        cells=values(f"{place}/{metric}"),
        intervals={cell: (low[cell], high[cell]) for cell in sorted(set(low) & set(high))},
        knn=values(f"eval/{source}/knn/{metric}") if classifier == "probe" else {},
        by_score={score: values(f"{place}/{score}") for score in POOLED_SCORES},
        pooled={score: float(np.mean([one[score] for one in summaries])) for score in POOLED_SCORES if summaries},
        confusion_KK=pooled if whole else None,
        auc={one: float(np.mean(found)) for one, found in areas.items() if found},
        auc_interval=auc_interval,
        missing=tuple(sorted(cells - {run.cell for run in runs})),
    )
