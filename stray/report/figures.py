"""Figures of scores and curves. Arrays in, a matplotlib figure out; `style` writes them.

K classes, N spots.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stray.report.style import FILL, INK, canvas, colours, quiet_grid, save_png, styled
from stray.report.tables import Cell, MethodRow


def confusion_matrix(confusion_KK: NDArray, classes: Sequence[str], title: str = "") -> Figure:
    """Draw counts in cells, coloured by their fraction of the row's true class."""
    counts = np.asarray(confusion_KK, dtype=np.float64)
    rows = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    side = 0.56 * len(classes)
    with styled():
        figure, axes = canvas(side + 1.6, side + 1.5)
        axes.pcolormesh(share, cmap=FILL, vmin=0.0, vmax=1.0, edgecolors=[(0.49, 0.52, 0.56, 0.25)], linewidth=0.5)
        for row, column in np.argwhere(counts > 0):
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{counts[row, column]:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold" if row == column else "normal",
            )
        axes.set_xticks(np.arange(len(classes)) + 0.5, classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(len(classes)) + 0.5, classes)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class")
        if title:
            axes.set_title(title, loc="left")
    return figure


def confusion_figure(
    truth_N: Sequence[str | None], prediction_N: Sequence[str], path: str | os.PathLike[str], title: str = ""
) -> str:
    """Write the confusion matrix of labels and predictions as PNG; spots without a label are left out. Returns the
    path.

    Raises ValueError when no spot has a label.
    """
    pairs = [(true, guess) for true, guess in zip(truth_N, prediction_N, strict=True) if true is not None]
    if not pairs:
        raise ValueError("no spot has a label")
    classes = sorted({name for pair in pairs for name in pair})
    code_of = {name: code for code, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for true, guess in pairs:
        counts[code_of[true], code_of[guess]] += 1
    return save_png(confusion_matrix(counts, classes, title), path)


def dots_per_fold(rows: Sequence[MethodRow], score_name: str) -> Figure:
    """Draw one column per method, a dot per cell coloured by fold, lines between the same cell of two methods, a bar at
    the mean.
    """
    folds = sorted({fold for row in rows for fold, _ in row.cells})
    colour_of = colours(folds)
    with styled():
        figure, axes = canvas(max(4.2, 1.15 * len(rows) + 1.6), 3.4)
        for cell in sorted({cell for row in rows for cell in row.cells}):
            line = [(index, row.cells[cell]) for index, row in enumerate(rows) if cell in row.cells]
            axes.plot(*zip(*line, strict=True), color=colour_of[cell[0]], alpha=0.35, linewidth=1.0, zorder=1)
        for index, row in enumerate(rows):
            axes.hlines(row.mean, index - 0.24, index + 0.24, color=INK, linewidth=2.2, zorder=2)
        for fold in folds:
            points = [
                (index, value) for index, row in enumerate(rows) for (one, _), value in row.cells.items() if one == fold
            ]
            axes.scatter(
                *zip(*points, strict=True), s=44, color=colour_of[fold], label=fold, zorder=3, linewidths=0, alpha=0.95
            )
        axes.set_xticks(range(len(rows)), [row.method.replace(" ", "\n") for row in rows])
        axes.set_xlim(-0.5, len(rows) - 0.5)
        highest = max((value for row in rows for value in row.cells.values()), default=1.0)
        axes.set_ylim(0.0, min(1.0, highest * 1.15) or 1.0)
        axes.set_ylabel(score_name)
        quiet_grid(axes)
        axes.legend(title="held out", loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2)
    return figure


def recall_heatmap(rows: Sequence[MethodRow], classes: Sequence[str], support_K: NDArray) -> Figure:
    """Draw one row per method, one column per class: the share of the class's spots that were found."""
    rows = [row for row in rows if row.confusion_KK is not None]
    shown = [code for code in range(len(classes)) if support_K[code] > 0]
    recall = np.zeros((len(rows), len(shown)))
    for index, row in enumerate(rows):
        counts = np.asarray(row.confusion_KK, dtype=np.float64)
        recall[index] = [counts[code, code] / max(counts[code].sum(), 1.0) for code in shown]
    with styled():
        figure, axes = canvas(0.95 * len(shown) + 1.9, 0.42 * len(rows) + 1.2)
        axes.pcolormesh(recall, cmap=FILL, vmin=0.0, vmax=1.0, edgecolors=[(0.49, 0.52, 0.56, 0.25)], linewidth=0.5)
        for row, column in np.ndindex(*recall.shape):
            axes.text(column + 0.5, row + 0.5, f"{recall[row, column]:.2f}", ha="center", va="center", fontsize=9.5)
        labels = [f"{classes[code].replace(' ', chr(10), 1)}\n{support_K[code]:,} spots" for code in shown]
        axes.set_xticks(np.arange(len(shown)) + 0.5, labels, fontsize=9)
        axes.xaxis.tick_top()
        axes.set_yticks(np.arange(len(rows)) + 0.5, [row.method for row in rows])
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def training_curves(
    curves: Mapping[tuple[str, Cell], Sequence[tuple[float, float]]], metric: str, step_name: str = "step"
) -> Figure:
    """Draw one line per cell, coloured by method."""
    methods = list(dict.fromkeys(method for method, _ in curves))
    colour_of = colours(methods)
    with styled():
        figure, axes = canvas(4.6, 2.9)
        named: set[str] = set()
        for (method, _), points in curves.items():
            steps, values = zip(*points, strict=True)
            label = method if method not in named else None
            named.add(method)
            axes.plot(steps, values, color=colour_of[method], label=label, linewidth=1.5, alpha=0.85)
        axes.set_xlabel(step_name)
        axes.set_title(metric, loc="left")
        quiet_grid(axes)
        if len(methods) > 1:
            axes.legend(fontsize=9)
    return figure
