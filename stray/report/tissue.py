"""Figures of tissue: sections put together from their patches, spots coloured by class, a sheet of patches.

N spots, P pixels of a patch's side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import KDTree

from stray.report.style import INK, MUTED, save_png, styled

_LONGEST_PX = 1600
_SCALES_UM = (100, 200, 500, 1000, 2000, 5000, 10000)


@dataclass(frozen=True)
class Mosaic:
    """Picture of a section where its patches cover it."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), white where no patch lies."""
    extent_um: tuple[float, float, float, float]
    """Left, right, bottom, top in micrometres, y downwards."""


def mosaic(
    pieces: Iterable[tuple[NDArray[np.uint8], NDArray[np.float64]]],
    bounds_um: tuple[float, float, float, float],
    size_um: float,
) -> Mosaic:
    """Build the picture of a section from its patches.

    Args:
        pieces: Patches (n, P, P, 3) with their centres (n, 2) in micrometres.
        bounds_um: Smallest and largest centre in micrometres: x0, y0, x1, y1.
        size_um: Side of a patch in micrometres.
    """
    x0, y0 = bounds_um[0] - size_um / 2, bounds_um[1] - size_um / 2
    x1, y1 = bounds_um[2] + size_um / 2, bounds_um[3] + size_um / 2
    scale = _LONGEST_PX / max(x1 - x0, y1 - y0)
    ground = Image.new("RGB", (round((x1 - x0) * scale) + 1, round((y1 - y0) * scale) + 1), "white")
    side = max(1, round(size_um * scale))
    for patches_NPPC, xy_N2 in pieces:
        for patch, (x, y) in zip(patches_NPPC, xy_N2, strict=True):
            tile = Image.fromarray(patch).resize((side, side), Image.Resampling.LANCZOS)
            ground.paste(tile, (round((x - size_um / 2 - x0) * scale), round((y - size_um / 2 - y0) * scale)))
    return Mosaic(np.asarray(ground), (x0, x0 + ground.width / scale, y0 + ground.height / scale, y0))


def section_figure(
    title: str,
    xy_um_N2: NDArray[np.float64],
    labels_N: Sequence[str | None],
    weak_N: NDArray[np.bool_],
    class_colours: Mapping[str, str],
    tissue: Mosaic | None,
    path: str | os.PathLike[str],
) -> str:
    """Write one section as PNG: its tissue where it has a picture, and its spots on it, coloured by class.

    Labels that the section brought itself fill the spot, `weak_N` ones (of a label table) are rings. Returns the path.
    """
    margin = _spot_distance(xy_um_N2)
    low, high = xy_um_N2.min(axis=0) - margin, xy_um_N2.max(axis=0) + margin
    height = 6.0
    wide = height * float(np.clip((high[0] - low[0]) / (high[1] - low[1]), 0.4, 2.5))
    panels = 1 if tissue is None else 2
    with styled():
        figure = Figure(figsize=(wide * panels + 2.3, height + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        for number, panel in enumerate(axes):
            if tissue is not None:
                panel.imshow(tissue.pixels, extent=tissue.extent_um, interpolation="antialiased")
            panel.set_xlim(low[0], high[0])
            panel.set_ylim(high[1], low[1])
            panel.set_aspect("equal")
            panel.set_axis_off()
            if number == panels - 1:
                _spots(panel, xy_um_N2, labels_N, weak_N, class_colours, margin)
        _scale_bar(axes[0], low, high)
        axes[0].set_title(title, loc="left")
        handles = _legend(labels_N, weak_N, class_colours)
        if handles:
            rings = any(label is not None and weak for label, weak in zip(labels_N, weak_N, strict=True))
            legend = figure.legend(handles=handles, loc="outside right upper", alignment="left")
            if rings:
                legend.set_title("rings: from a label table")
    return save_png(figure, path)


def contact_sheet(
    rows: Sequence[tuple[str, NDArray[np.uint8]]], title: str, path: str | os.PathLike[str], columns: int = 16
) -> str:
    """Write patches (n, P, P, 3) of each named row as PNG, `columns` at most a row. Returns the path."""
    cell = 0.62
    with styled():
        figure = Figure(figsize=(cell * columns + 1.4, cell * len(rows) + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for row, (name, patches_NPPC) in enumerate(rows):
            for column, patch in enumerate(patches_NPPC[:columns]):
                axes.imshow(
                    patch, extent=(column + 0.02, column + 0.98, row + 0.98, row + 0.02), interpolation="lanczos"
                )
            axes.text(-0.2, row + 0.5, name, ha="right", va="center")
        axes.set_xlim(0, columns)
        axes.set_ylim(len(rows), 0)
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_title(title, loc="left")
    return save_png(figure, path)


def _spot_distance(xy_um_N2: NDArray[np.float64]) -> float:
    if len(xy_um_N2) < 2:
        return 100.0
    distances, _ = KDTree(xy_um_N2).query(xy_um_N2, k=2)
    return float(np.median(distances[:, 1])) or 100.0


def _spots(
    axes: Axes,
    xy_um_N2: NDArray[np.float64],
    labels_N: Sequence[str | None],
    weak_N: NDArray[np.bool_],
    class_colours: Mapping[str, str],
    distance: float,
) -> None:
    known_N = np.array([label is not None for label in labels_N])
    edges_N = np.array([MUTED if label is None else class_colours[label] for label in labels_N])
    weak_N = known_N & weak_N
    rings_N = edges_N[weak_N]
    for chosen_N, face, edge, line in (
        (~known_N, "none", edges_N[~known_N], 0.7),
        # A white ring beneath sets the coloured one off from tissue of the same hue.
        (weak_N, "none", "white", 3.4),
        (weak_N, "none", rings_N, 1.8),
        (known_N & ~weak_N, edges_N[known_N & ~weak_N], "white", 0.6),
    ):
        if not chosen_N.any():
            continue
        diameter = np.full(int(chosen_N.sum()), 0.62 * distance)
        spots = EllipseCollection(
            diameter,
            diameter,
            np.zeros_like(diameter),
            units="xy",
            offsets=xy_um_N2[chosen_N],
            transOffset=axes.transData,
            facecolors=face,
            edgecolors=edge,
            linewidths=line,
        )
        axes.add_collection(spots)


def _legend(
    labels_N: Sequence[str | None], weak_N: NDArray[np.bool_], class_colours: Mapping[str, str]
) -> list[Line2D]:
    handles = []
    for name, colour in class_colours.items():
        has_N = np.array([label == name for label in labels_N])
        if not has_N.any():
            continue
        weak = bool(weak_N[has_N].all())
        face = "none" if weak else colour
        text = f"{name} ({has_N.sum()})"
        handles.append(
            Line2D([], [], ls="", marker="o", ms=7, mfc=face, mec=colour, mew=1.8 if weak else 0.6, label=text)
        )
    bare = sum(label is None for label in labels_N)
    if bare:
        handles.append(
            Line2D([], [], ls="", marker="o", ms=7, mfc="none", mec=MUTED, mew=0.7, label=f"no label ({bare})")
        )
    return handles


def _scale_bar(axes: Axes, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    span = high - low
    length = max((scale for scale in _SCALES_UM if scale <= span[0] / 4), default=_SCALES_UM[0])
    x, y = low[0] + 0.02 * span[0], high[1] + 0.015 * span[1]
    axes.plot([x, x + length], [y, y], color=INK, linewidth=3, clip_on=False, solid_capstyle="butt")
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length} um"
    axes.text(x + length + 0.015 * span[0], y, text, va="center", ha="left", clip_on=False, fontsize=9)
