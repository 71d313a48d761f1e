"""Style of figures, with colours for light and dark pages and any colour vision, and their output as PNG or SVG.

A figure is drawn with matplotlib's object interface, never through pyplot's global state, so any thread may draw.
"""

from __future__ import annotations

import contextlib
import html
import io
import os
import re
import threading
import warnings
from collections.abc import Sequence
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK = "#1b1f24"
"""Text and axes. On a page it becomes the page's own text colour."""
MUTED = "#7d8590"
"""Secondary lines and the majority class: a grey that reads on white and on black."""
PALETTE = ("#3b82c4", "#e08b1a", "#2a9d76", "#c0529a", "#d2573c", "#7a6fd0", "#9a8a2f", "#4fa8b8")
"""Colours of series (Okabe and Ito's order of hues, evened in lightness)."""
FILL = LinearSegmentedColormap.from_list("stray", [(0.231, 0.51, 0.769, 0.0), (0.231, 0.51, 0.769, 0.78)])
"""Shares from 0 to 1: a blue over the page's own background."""

_SETTINGS: dict[str, Any] = {
    "font.size": 10.0,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    # A name with two dollar signs is no formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "stray",
}
# rc_context swaps matplotlib's global settings, so two threads must not be inside it at once.
_LOCK = threading.Lock()


class styled:
    """`with styled():` draws in this style; figures and axes must be made inside."""

    def __enter__(self) -> styled:
        _LOCK.acquire()
        self._context = contextlib.ExitStack()
        self._context.enter_context(matplotlib.rc_context(cast(Any, _SETTINGS)))
        self._context.enter_context(warnings.catch_warnings())
        # A character that the font lacks is drawn as a box; a page's SVG keeps it as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._context.__exit__(*error)
        finally:
            _LOCK.release()


def canvas(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    """Return a figure with one axes, on a transparent ground."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    return figure, axes


def quiet_grid(axes: Axes, axis: str = "y") -> None:
    """Draw faint lines behind the data."""
    axes.grid(axis=axis, color=MUTED, alpha=0.25, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return one colour per name, in order; they repeat when there are more names than colours."""
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def save_png(figure: Figure, path: str | os.PathLike[str], dots_per_inch: int = 150) -> str:
    """Write the figure on white, and return the path."""
    with styled():
        figure.savefig(os.fspath(path), format="png", dpi=dots_per_inch, facecolor="white")
    return os.fspath(path)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Return the figure as an SVG element for a page: text stays text, lines take the page's text colour, and ids are
    unique to the figure.
    """
    buffer = io.StringIO()
    with styled(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg).replace(INK, "currentColor")
    # Ids that clip paths and markers refer to must not meet those of another figure on the page.
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{re.sub(r'[^A-Za-z0-9]', '-', name)}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)
