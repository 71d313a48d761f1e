"""Figures of a hyperparameter search: history, rungs, slices, importances, parallel coordinates, contour."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stray.report.style import INK, MUTED, PALETTE, canvas, quiet_grid, styled

SCORE = "inner balanced accuracy"
COMPLETE, PRUNED, BEST = PALETTE[0], MUTED, PALETTE[1]
HEAT = LinearSegmentedColormap.from_list("stray-score", ["#dfe9f3", PALETTE[0], "#0f2a47"])
"""Low to high scores: light to dark, readable in grey."""
COLUMNS = 3
"""Slices side by side."""
FEW = 6
"""Complete trials below which there are no importances and no contour: they would show chance."""


@dataclass(frozen=True, kw_only=True)
class TrialPoint:
    """A trial of a search."""

    number: int
    settings: Mapping[str, Any]
    """Short name of the parameter to its value."""
    score: float
    """nan unless the trial is complete."""
    state: str
    curve: Mapping[int, float]
    """Epoch to the score of the running trial."""
    hours: float = math.nan
    """Device hours, where they are an objective."""
    front: bool = False
    """Whether it is on the Pareto front."""

    @property
    def shown(self) -> float:
        """Score, or the last one of a trial that was stopped."""
        return self.curve[max(self.curve)] if math.isnan(self.score) and self.curve else self.score


def search_figures(
    trials: Sequence[TrialPoint], logarithmic: Collection[str], importances: Mapping[str, float]
) -> dict[str, Figure]:
    """Draw what the trials can show, by the name of the figure.

    Parameters named in `logarithmic` have a logarithmic axis; `importances` are shares by parameter, empty where they
    are unknown. Slices need a score; the Pareto front device hours; rungs a trial that was judged; parallel coordinates
    two parameters; importances and contour `FEW` complete trials, and the contour two numeric parameters.
    """
    scored = [trial for trial in trials if not math.isnan(trial.shown)]
    complete = [trial for trial in scored if trial.state == "complete"]
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    found = {}
    if scored:
        found["history"] = _history(scored, complete)
        found["slices"] = _slices(scored, names, logarithmic)
    if any(not math.isnan(trial.hours) for trial in complete):
        found["pareto_front"] = _front(complete)
    if any(trial.curve for trial in trials):
        found["rungs"] = _rungs(trials)
    if len(complete) > 1 and len(names) > 1:
        found["parallel_coordinates"] = _parallel(complete, names, logarithmic)
    if len(complete) >= FEW and importances:
        found["importances"] = _importances(importances)
    ranked = [name for name in sorted(importances, key=importances.__getitem__, reverse=True) if name in names]
    numeric = [name for name in ranked or names if all(_is_number(t.settings.get(name, 0.0)) for t in complete)]
    both = [trial for trial in complete if all(name in trial.settings for name in numeric[:2])]
    if len(numeric) > 1 and len(both) >= FEW and _spread(both, numeric[:2]):
        found["contour"] = _contour(both, numeric[0], numeric[1], logarithmic)
    return found


def _history(scored: Sequence[TrialPoint], complete: Sequence[TrialPoint]) -> Figure:
    with styled():
        figure, axes = canvas(6.0, 3.2)
        stopped = [trial for trial in scored if trial.state != "complete"]
        _dots(axes, [t.number for t in stopped], [t.shown for t in stopped], stopped=True)
        _dots(axes, [t.number for t in complete], [t.score for t in complete], stopped=False)
        ordered = sorted(complete, key=lambda trial: trial.number)
        if ordered:
            best = np.maximum.accumulate([trial.score for trial in ordered])
            axes.step([t.number for t in ordered], best, where="post", color=BEST, linewidth=2, label="best so far")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel(SCORE)
        quiet_grid(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.set_title("Scores of the trials", loc="left")
    return figure


def _front(complete: Sequence[TrialPoint]) -> Figure:
    front = sorted((trial for trial in complete if trial.front), key=lambda trial: trial.hours)
    others = [trial for trial in complete if not trial.front]
    with styled():
        figure, axes = canvas(6.0, 3.4)
        axes.plot([t.hours for t in others], [t.score for t in others], "o", color=COMPLETE, label="other trials")
        axes.plot([t.hours for t in front], [t.score for t in front], "o-", color=BEST, label="Pareto front")
        for trial in front:
            at = (trial.hours, trial.score)
            axes.annotate(str(trial.number), at, xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set_xlabel("device hours")
        axes.set_ylabel(SCORE)
        quiet_grid(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.set_title("Score against cost (numbers of trials)", loc="left")
    return figure


def _rungs(trials: Sequence[TrialPoint]) -> Figure:
    with styled():
        figure, axes = canvas(6.0, 3.2)
        best = max((t for t in trials if t.state == "complete"), key=lambda t: t.score, default=None)
        for trial in trials:
            if not trial.curve:
                continue
            epochs = sorted(trial.curve)
            colour = BEST if trial is best else COMPLETE if trial.state == "complete" else PRUNED
            values = [trial.curve[epoch] for epoch in epochs]
            axes.plot(
                epochs, values, color=colour, alpha=1.0 if trial is best else 0.6, linewidth=2 if trial is best else 1
            )
            if trial.state == "pruned":
                axes.plot(epochs[-1], values[-1], "x", color=PRUNED, markersize=6)
        labels = {"best": BEST, "complete": COMPLETE, "stopped at the cross": PRUNED}
        handles = [axes.plot([], [], color=colour, label=label)[0] for label, colour in labels.items()]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch of the contrastive stage")
        axes.set_ylabel(f"{SCORE} (sample)")
        quiet_grid(axes)
        axes.set_title("Scores while the trials ran", loc="left")
    return figure


def _slices(scored: Sequence[TrialPoint], names: Sequence[str], logarithmic: Collection[str]) -> Figure:
    rows = -(-len(names) // COLUMNS)
    columns = min(COLUMNS, len(names))
    with styled():
        figure = Figure(figsize=(2.9 * columns + 0.8, 2.6 * rows + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for place, name in enumerate(names):
            axes = panels[place // COLUMNS, place % COLUMNS]
            having = [trial for trial in scored if name in trial.settings]
            for stopped in (True, False):
                part = [trial for trial in having if (trial.state != "complete") == stopped]
                _dots(axes, [_plain(t.settings[name]) for t in part], [t.shown for t in part], stopped=stopped)
            if name in logarithmic and having:
                axes.set_xscale("log")
                ticks = _Scale.of([trial.settings[name] for trial in having], logarithmic=True).ticks()
                axes.set_xticks(ticks, [_text(tick) for tick in ticks])
                axes.set_xticks([], minor=True)
            if not all(_is_number(trial.settings[name]) for trial in having):
                axes.margins(x=0.2)
            axes.set_xlabel(name)
            quiet_grid(axes)
        for place in range(len(names), rows * columns):
            panels[place // COLUMNS, place % COLUMNS].set_visible(False)
        figure.supylabel(SCORE, fontsize=10)
        figure.suptitle("Score by each parameter (hollow: stopped)", x=0.02, ha="left", fontsize=11, fontweight="bold")
    return figure


def _importances(importances: Mapping[str, float]) -> Figure:
    ordered = sorted(importances.items(), key=lambda item: item[1])
    with styled():
        figure, axes = canvas(6.0, 0.42 * len(ordered) + 1.2)
        axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=COMPLETE, height=0.6)
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the scores' variance (fANOVA)")
        quiet_grid(axes, "x")
        axes.set_title("Importance of the parameters", loc="left")
    return figure


def _parallel(complete: Sequence[TrialPoint], names: Sequence[str], logarithmic: Collection[str]) -> Figure:
    scales = {
        name: _Scale.of([t.settings[name] for t in complete if name in t.settings], logarithmic=name in logarithmic)
        for name in names
    }
    names = [name for name in names if scales[name].values]
    low, high = min(t.score for t in complete), max(t.score for t in complete)
    with styled():
        figure, axes = canvas(max(5.0, 1.6 * len(names) + 2.0), 3.8)
        for trial in sorted(complete, key=lambda t: t.score):
            share = (trial.score - low) / (high - low) if high > low else 1.0
            points = [
                (x, scales[name].place(trial.settings[name])) for x, name in enumerate(names) if name in trial.settings
            ]
            axes.plot(*zip(*points, strict=True), color=HEAT(share), linewidth=1 + share, marker="o", markersize=3)
        for x, name in enumerate(names):
            axes.axvline(x, color=MUTED, linewidth=0.8, zorder=0)
            for value in scales[name].ticks():
                axes.text(x + 0.03, scales[name].place(value), _text(value), fontsize=8, color=INK, va="center")
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.1, len(names) - 0.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_title(f"Complete trials: light {low:.3f}, dark {high:.3f}", loc="left")
    return figure


def _contour(complete: Sequence[TrialPoint], first: str, second: str, logarithmic: Collection[str]) -> Figure:
    with styled():
        figure, axes = canvas(5.2, 4.0)
        x, y = ([float(trial.settings[name]) for trial in complete] for name in (first, second))
        scores = [trial.score for trial in complete]
        # Triangles are drawn between the points as they lie on the axes.
        at_x, at_y = (np.log(v) if name in logarithmic else np.asarray(v) for v, name in ((x, first), (y, second)))
        drawn = axes.tricontourf(at_x, at_y, scores, levels=8, cmap=HEAT)
        axes.plot(at_x, at_y, "o", color="white", markeredgecolor=INK, markersize=5)
        for axis, name, values in ((axes.xaxis, first, x), (axes.yaxis, second, y)):
            ticks = _Scale.of(values, logarithmic=name in logarithmic).ticks()
            axis.set_ticks([math.log(t) if name in logarithmic else t for t in ticks], [_text(t) for t in ticks])
        axes.set_xlabel(first)
        axes.set_ylabel(second)
        figure.colorbar(drawn, label=SCORE)
        axes.set_title("Score between complete trials", loc="left")
    return figure


@dataclass(frozen=True)
class _Scale:
    """Axis from 0 to 1 of the values of a parameter."""

    values: tuple[Any, ...]
    """Sorted values; names in their order of appearance."""
    logarithmic: bool
    numeric: bool

    @staticmethod
    def of(values: Sequence[Any], *, logarithmic: bool) -> _Scale:
        numeric = all(map(_is_number, values))
        kept = sorted(set(values)) if numeric else list(dict.fromkeys(map(str, values)))
        return _Scale(tuple(kept), logarithmic and numeric, numeric)

    def place(self, value: Any) -> float:
        if not self.numeric:
            return self.values.index(str(value)) / max(1, len(self.values) - 1)
        low, high, at = (
            math.log(v) if self.logarithmic else float(v) for v in (self.values[0], self.values[-1], value)
        )
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[Any]:
        if not self.numeric or len(self.values) <= 4:
            return list(self.values)
        low, high = float(self.values[0]), float(self.values[-1])
        steps = np.geomspace(low, high, 4) if self.logarithmic else np.linspace(low, high, 4)
        return [float(step) for step in steps]


def _dots(axes: Axes, x: Sequence[Any], y: Sequence[float], *, stopped: bool) -> None:
    if not x:
        return
    face = "none" if stopped else COMPLETE
    label = "stopped (last score)" if stopped else "complete"
    axes.scatter(x, y, s=26, facecolors=face, edgecolors=PRUNED if stopped else COMPLETE, label=label, zorder=2)


def _spread(trials: Sequence[TrialPoint], names: Sequence[str]) -> bool:
    """Return whether the trials span an area of two parameters."""
    points = np.array([[float(trial.settings[name]) for name in names] for trial in trials])
    return bool(np.linalg.matrix_rank(points - points.mean(axis=0)) == 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return value if _is_number(value) else str(value)


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
