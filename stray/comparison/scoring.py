"""Tables of a comparison, one for each label source, from the runs of an experiment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stray.comparison.cells import CellRun, is_weak, label_sources
from stray.metrics.naming import safe_name
from stray.metrics.paired import holm, paired_difference
from stray.metrics.scores import confusion_matrix, summarise
from stray.report.tables import MAJORITY, POOLED_SCORES, Cell, Delta, MethodRow, SourceTable


@dataclass(frozen=True)
class Answers:
    """Labels and predictions on one label source, of the runs that have them; keyed by `id` of the run."""

    classes: tuple[str, ...]
    """Every class that a label or a prediction names, sorted."""
    spots: dict[int, NDArray]
    """Ids of the scored spots."""
    codes: dict[int, dict[str, NDArray[np.int64]]]
    """By column (label, probe, majority), indices into `classes`."""

    @staticmethod
    def of(runs: Sequence[CellRun], source: str) -> Answers:
        """Read the answers on `source` from the tables of the runs."""
        texts = {id(run): _answers(run.predictions, source) for run in runs if run.predictions is not None}
        spots = {key: np.array(columns.pop("spot_id"), dtype=object) for key, columns in texts.items()}
        classes = sorted({str(name) for columns in texts.values() for column in columns.values() for name in column})
        code_of = {name: code for code, name in enumerate(classes)}
        codes = {
            key: {name: np.array([code_of[label] for label in labels], dtype=np.int64) for name, labels in one.items()}
            for key, one in texts.items()
        }
        return Answers(tuple(classes), spots, codes)


def source_table(runs: list[CellRun], methods: list[str], source: str, metric: str, baseline: str) -> SourceTable:
    """Return the table of all methods on one label source."""
    runs = [run for run in runs if source in label_sources(run.record)]
    cells = {run.cell for run in runs}
    answers = Answers.of(runs, source)
    one_of_cell = {run.cell: run for run in reversed(runs)}
    rows = [_row(MAJORITY, "majority", list(one_of_cell.values()), answers, source, metric, cells)]
    for method in methods:
        own = [run for run in runs if run.method == method]
        if own:
            rows.append(_row(method, "probe", own, answers, source, metric, cells))
    one_of_fold = {run.cell[0]: run for run in runs if id(run) in answers.codes}
    support_K = np.zeros(len(answers.classes), dtype=np.int64)
    for run in one_of_fold.values():
        support_K += np.bincount(answers.codes[id(run)]["label"], minlength=len(answers.classes))
    return SourceTable(
        source=source,
        weak=is_weak(runs, source),
        classes=answers.classes,
        support_K=support_K,
        rows=tuple(_compared(rows, baseline, runs, answers, metric)),
        missing_classes=_missing_classes(one_of_fold, source),
    )


def _compared(
    rows: Sequence[MethodRow], baseline: str, runs: list[CellRun], answers: Answers, metric: str
) -> Iterator[MethodRow]:
    """Yield the rows with their differences to the baseline, whose p-values are corrected together (Holm)."""
    reference = next((row for row in rows if row.method == baseline), None)
    deltas = {
        row.method: delta
        for row in rows
        if reference is not None and row.method not in (MAJORITY, baseline)
        if (delta := _delta(row, reference, runs, answers, metric)) is not None
    }
    corrected = dict(zip(deltas, holm([delta.p for delta in deltas.values()]), strict=True))
    for row in rows:
        delta = deltas.get(row.method)
        yield row if delta is None else replace(row, delta=replace(delta, p=corrected[row.method]))


def _missing_classes(one_of_fold: dict[str, CellRun], source: str) -> dict[str, tuple[str, ...]]:
    """Return, by fold, the classes that are scored though no training label had them."""
    found = {}
    for fold, run in sorted(one_of_fold.items()):
        of_source = {safe_name(key): names for key, names in run.facts.get("missing_classes", {}).items()}
        if of_source.get(source):
            found[fold] = tuple(of_source[source])
    return found


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
    answers: Answers,
    metric: str,
) -> Delta | None:
    """Return the difference of a method to the baseline, each cell on the spots that both scored; None where they share
    no cell.
    """
    run_of = {(run.method, run.cell): id(run) for run in reversed(runs)}
    spots, n_classes = answers.spots, len(answers.classes)
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
            truth, prediction = (answers.codes[key][name][place] for name in ("label", "probe"))
            confusion = confusion_matrix(truth, prediction, n_classes)
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
    answers: Answers,
    source: str,
    metric: str,
    cells: set[Cell],
) -> MethodRow:
    """Return the row of one method, or of the majority class, over its cells."""
    place = f"eval/{source}/{classifier}"
    classes, coded = answers.classes, answers.codes

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
