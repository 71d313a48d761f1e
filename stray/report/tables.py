"""A comparison of methods as plain data, and its numbers as text.

F folds, S seeds: a cell is one (fold, seed) of a method; K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Cell = tuple[str, int]
"""(fold, seed)."""

METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "balanced_accuracy_known": "balanced accuracy, known classes",
    "accuracy": "accuracy",
    "macro_f1_fold": "macro-F1, classes of the fold",
    "macro_f1_known": "macro-F1, known classes",
}
"""Scores that can head a comparison, in words."""


MAJORITY = "majority class"
"""Name of the row of the majority class."""

POOLED_SCORES = ("accuracy", "balanced_accuracy", "macro_f1_fold")
"""Scores that are shown for every held-out patient, and over all of them together."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """The difference to the baseline over the cells that both have."""

    mean: float
    sd: float
    n_pairs: int
    n_folds: int
    p: float
    """Corrected by Holm's method for the number of comparisons; nan where too few folds were held out for a test."""
    note: str = ""
    """Spots that the compared scores are over, where these are not all spots of both methods."""


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method on one label source."""

    method: str
    cells: dict[Cell, float]
    """The score of each cell."""
    intervals: dict[Cell, tuple[float, float]] = field(default_factory=dict)
    """95% interval of a cell's score over the tissue, where there is enough of it."""
    knn: dict[Cell, float] = field(default_factory=dict)
    """The same score of the kNN vote."""
    by_score: dict[str, dict[Cell, float]] = field(default_factory=dict)
    """Each of `POOLED_SCORES` of each cell."""
    pooled: dict[str, float] = field(default_factory=dict)
    """The same of the predictions of all folds together, over all their classes, mean over seeds; empty where
    predictions are missing."""
    confusion_KK: NDArray[np.int64] | None = None
    """Counts summed over folds and seeds, in the order of the source's classes: row the truth, column the
    prediction."""
    auc: dict[str, float] = field(default_factory=dict)
    """By class: one against the rest, mean over cells."""
    auc_interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By class: the interval over the tissue, where there is one fold; of its seeds the widest."""
    delta: Delta | None = None
    """Against the baseline; None for the baseline itself and the majority row."""
    missing: tuple[Cell, ...] = ()
    """Cells that other methods have and this one does not."""

    @property
    def accuracy(self) -> float:
        """Accuracy on the pooled spots of all folds, mean over seeds; nan where predictions are missing."""
        return self.pooled.get("accuracy", math.nan)

    @property
    def balanced_accuracy(self) -> float:
        """Balanced accuracy (mean recall over all classes) on the same spots."""
        return self.pooled.get("balanced_accuracy", math.nan)

    @property
    def macro_f1(self) -> float:
        """Macro F1 (mean over all classes) on the same spots."""
        return self.pooled.get("macro_f1_fold", math.nan)

    @property
    def mean(self) -> float:
        """Mean over cells."""
        return float(np.mean(list(self.cells.values()))) if self.cells else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation over cells; nan with one."""
        return float(np.std(list(self.cells.values()), ddof=1)) if len(self.cells) > 1 else math.nan

    @property
    def knn_mean(self) -> float:
        """Mean over cells of the kNN vote."""
        return float(np.mean(list(self.knn.values()))) if self.knn else math.nan

    @property
    def folds(self) -> tuple[str, ...]:
        """Folds that it has."""
        return tuple(sorted({fold for fold, _ in self.cells}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that it has."""
        return tuple(sorted({seed for _, seed in self.cells}))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bootstrap interval over tissue blocks, the widest of the seeds; None with several folds, whose spread over
        patients is given instead."""
        if len(self.folds) != 1 or not self.intervals:
            return None
        return min(low for low, _ in self.intervals.values()), max(high for _, high in self.intervals.values())

    def of_fold(self, fold: str) -> MethodRow:
        """Return the row with one fold's cells and intervals alone."""
        cells = {cell: value for cell, value in self.cells.items() if cell[0] == fold}
        intervals = {cell: bounds for cell, bounds in self.intervals.items() if cell in cells}
        return replace(self, cells=cells, intervals=intervals)


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """All methods on the labels of one source."""

    source: str
    weak: bool
    """The labels are not truth: these scores are no measure of a method."""
    classes: tuple[str, ...]
    """Classes that occur or are predicted, in the order of every confusion matrix."""
    support_K: NDArray[np.int64]
    """Spots of each class, over the folds."""
    rows: tuple[MethodRow, ...]
    """The majority row first, then the baseline, then the others in the order in which they ran."""
    missing_classes: dict[str, tuple[str, ...]]
    """By fold: classes that are scored though the fold's training labels lacked them."""

    @property
    def folds(self) -> tuple[str, ...]:
        """Folds of any method."""
        return tuple(sorted({fold for row in self.rows for fold in row.folds}))


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Choice of a method that chooses among others in one cell."""

    method: str
    """The method that it was."""
    judges: str
    """Inner validation patients."""
    scores: dict[str, float]
    """Balanced accuracy on them of each method that it chose among."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The methods of an experiment."""

    experiment: str
    metric: str
    """Which score heads it; a key of `METRIC_NAMES`."""
    baseline: str | None
    """The method that others are compared with; None where there is only one."""
    sources: tuple[SourceTable, ...]
    """Trusted label sources first."""
    choices: dict[str, dict[Cell, Chosen]] = field(default_factory=dict)
    """By method that chooses among others."""
    curves: dict[str, dict[tuple[str, Cell], tuple[tuple[float, float], ...]]] = field(default_factory=dict)
    """Training curves: metric -> (method, cell) -> (step, value)."""
    notes: tuple[str, ...] = ()
    """Notes for the reader: cells that are missing, runs that were left out."""
    facts: dict[str, str] = field(default_factory=dict)
    """Origin of the numbers: store, dataset, versions."""
    params: dict[str, str] = field(default_factory=dict)
    """The recipe, by dotted path."""

    def row(self, method: str, source: str | None = None) -> MethodRow:
        """Return a method's row, on the first (trusted) source unless one is named. Raises KeyError."""
        for table in self.sources:
            if source in (None, table.source):
                for row in table.rows:
                    if row.method == method:
                        return row
        raise KeyError(method if source is None else (method, source))


def number(value: float, digits: int = 3) -> str:
    """Return a score as text; a dash for nan."""
    return "-" if not math.isfinite(value) else f"{value:.{digits}f}"


def score_text(row: MethodRow) -> str:
    """Return `mean ± sd` over cells, or with one fold the mean over seeds and the interval over the tissue."""
    if row.interval is not None:
        return f"{number(row.mean)} [{number(row.interval[0])}, {number(row.interval[1])}]"
    return f"{number(row.mean)} ± {number(row.sd)}" if len(row.cells) > 1 else number(row.mean)


def delta_text(delta: Delta | None) -> str:
    """Return `+0.123 ± 0.045`; a dash where nothing is compared."""
    if delta is None:
        return "-"
    return f"{delta.mean:+.3f}" + (f" ± {delta.sd:.3f}" if math.isfinite(delta.sd) else "")


def p_text(delta: Delta | None) -> str:
    """Return the p-value with the number of pairs, or why there is none."""
    if delta is None:
        return "-"
    pairs = f"n = {delta.n_pairs}"
    pairs += f", {delta.note}" if delta.note else ""
    if not math.isfinite(delta.p):
        return f"{pairs}, too few folds"
    return f"{'p < 0.001' if delta.p < 0.001 else f'p = {delta.p:.3f}'}, {pairs}"


def cells_text(row: MethodRow) -> str:
    """Return `2 folds x 3 seeds`, with the cells that are missing."""
    folds, seeds = len(row.folds), len(row.seeds)
    text = f"{folds} fold{'s' * (folds != 1)} x {seeds} seed{'s' * (seeds != 1)}"
    return f"{text}, {len(row.missing)} missing" if row.missing else text


def cell_names(cells: Sequence[Cell]) -> str:
    """Return cells as a list for a sentence."""
    return ", ".join(f"fold {fold} seed {seed}" for fold, seed in cells)
