"""Figure of the gene stage's codes: before and after, by batch and by class. Arrays in, a matplotlib figure out.

N spots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stray.report.style import MUTED, PALETTE, canvas, styled

MARKERS = ("o", "^", "s", "D", "v", "P")
"""Markers: where there are more groups than colours, the colours come again with another one."""
MOST_NAMED = 2 * len(PALETTE)
"""Groups that a legend names; of the others it gives the number."""

SIDE = 3.4
"""Inches of a panel's side."""


@dataclass(frozen=True)
class View:
    """Spots in one space."""

    title: str
    plane_N2: NDArray[np.floating]
    """Positions on its first two principal components."""
    share_2: tuple[float, float]
    """Share of the space's variance on each."""
    notes: Mapping[str, str]
    """A line on each grouping in this space; none of a grouping that is absent."""


def before_and_after(views: tuple[View, ...], groupings: Mapping[str, NDArray], footer: str = "") -> Figure:
    """Draw one column per view of the same spots, one row per grouping: `groupings` names the group of each spot (N,),
    empty where it has none. Spots without a group are grey, behind the others.
    """
    longest = max(len(name) for names_N in groupings.values() for name in ["and more of it", *names_N.tolist()])
    step_x, step_y = SIDE + 0.5, SIDE + 0.7
    # Places are given in inches: matplotlib's own layouts let square panels and what is written over them overlap.
    width, height = step_x * len(views) + 0.9 + 0.075 * longest, step_y * len(groupings) + 0.8
    with styled():
        figure, first = canvas(width, height)
        figure.delaxes(first)
        figure.set_layout_engine("none")

        def axes_at(row: int, column: int) -> Axes:
            left, bottom = 0.35 + step_x * column, height - 0.6 - SIDE - step_y * row
            return figure.add_axes((left / width, bottom / height, SIDE / width, SIDE / height))

        for row, (grouping, names_N) in enumerate(groupings.items()):
            groups = sorted(set(names_N.tolist()) - {""})
            for column, view in enumerate(views):
                axes = axes_at(row, column)
                _draw(axes, view, names_N, groups)
                if row == 0:
                    axes.set_title(view.title, loc="left", pad=20, fontsize=10.0)
                axes.text(0.0, 1.02, view.notes.get(grouping, ""), transform=axes.transAxes, fontsize=8.5)
            _legend(axes_at(row, len(views)), grouping, names_N, groups)
        figure.text(0.1 / width, 0.1 / height, footer, fontsize=8.5)
    return figure


def _draw(axes: Axes, view: View, names_N: NDArray, groups: list[str]) -> None:
    axes.patch.set_alpha(0.0)
    # In one order of their own: the spots of no group lie above those of another because it was drawn last.
    order = np.random.default_rng(0).permutation(len(names_N))
    place_of = {group: place for place, group in enumerate(groups)}
    place_N = np.array([place_of.get(name, -1) for name in names_N.tolist()], dtype=np.int64)[order]
    plane_N2 = view.plane_N2[order]
    grey_N = place_N < 0
    axes.scatter(*plane_N2[grey_N].T, c=MUTED, s=6, alpha=0.3, linewidths=0)
    for turn in range(place_N.max(initial=-1) // len(PALETTE) + 1):
        mine_N = ~grey_N & (place_N // len(PALETTE) == turn)
        paint = [PALETTE[place % len(PALETTE)] for place in place_N[mine_N]]
        axes.scatter(*plane_N2[mine_N].T, c=paint, s=9, alpha=0.75, linewidths=0, marker=MARKERS[turn % len(MARKERS)])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"PC 1 ({view.share_2[0]:.0%} of variance)", fontsize=8.5)
    axes.set_ylabel(f"PC 2 ({view.share_2[1]:.0%})", fontsize=8.5)


def _legend(axes: Axes, grouping: str, names_N: NDArray, groups: list[str]) -> None:
    for place, group in enumerate(groups[:MOST_NAMED]):
        marker = MARKERS[place // len(PALETTE) % len(MARKERS)]
        axes.scatter([], [], c=PALETTE[place % len(PALETTE)], s=30, marker=marker, linewidths=0, label=group)
    if len(groups) > MOST_NAMED:
        axes.scatter([], [], s=0, label=f"and {len(groups) - MOST_NAMED} more")
    if (names_N == "").any():
        axes.scatter([], [], c=MUTED, s=30, alpha=0.5, linewidths=0, label=f"no {grouping}")
    axes.legend(title=grouping, alignment="left", loc="center left", fontsize=8.5, handletextpad=0.1, borderpad=0)
    axes.set_axis_off()
