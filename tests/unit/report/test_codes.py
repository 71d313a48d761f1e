from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from stray.report.codes import MOST_NAMED, View, before_and_after
from stray.report.style import MUTED, PALETTE, to_svg

RNG = np.random.default_rng(0)


def view(title: str, n: int) -> View:
    return View(title, RNG.normal(size=(n, 2)), (0.3, 0.1), {"patient": f"{title} note"})


def texts(figure) -> list[str]:
    svg = to_svg(figure, "codes", "codes")
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def hues(drawn) -> list[str]:
    return [to_hex((r, g, b)) for r, g, b, _ in np.asarray(drawn.get_facecolor()).tolist()]


def test_a_column_a_view_a_row_a_grouping_and_equal_panels() -> None:
    groupings = {"patient": np.array(["A", "B"] * 30), "class": np.array(["", "tumour", "fat"] * 20)}
    figure = before_and_after((view("Before", 60), view("After", 60)), groupings, "what the numbers are")
    shown = texts(figure)
    for text in ("Before", "After", "Before note", "After note", "patient", "class", "no class", "tumour", "fat"):
        assert shown.count(text) == 1, text
    assert "no patient" not in shown
    assert "what the numbers are" in shown
    figure.draw_without_rendering()
    panels = [axes.get_window_extent() for axes in figure.axes if axes.axison]
    assert len(panels) == 4
    assert max(p.width for p in panels) - min(p.width for p in panels) < 1
    assert max(abs(p.width - p.height) for p in panels) < 1


@pytest.mark.parametrize(
    "classes", [["fat", ""], ["a class of tissue with a long name", "x"], [f"S{index}" for index in range(20)]]
)
def test_nothing_that_is_written_is_cut_or_lies_over_another(classes: list[str]) -> None:
    groupings = {"patient": np.array(["A", "B"] * 30), "class": np.resize(np.array(classes), 60)}
    notes = dict.fromkeys(groupings, "silhouette -0.32, kNN purity -0.10 (labels it learned from)")
    titles = "Before: log-normalised counts, 18,000 genes", "After: scANVI codes, 10 dimensions"
    views = tuple(View(title, RNG.normal(size=(60, 2)), (0.3, 0.1), notes) for title in titles)
    figure = before_and_after(views, groupings, "what the numbers are")
    figure.draw_without_rendering()
    boxes = [
        text.get_window_extent()
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_text().strip() and text.get_visible()
    ]
    assert len(boxes) > 15
    for index, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_spots_of_no_group_are_grey_and_behind_the_others() -> None:
    groupings = {"class": np.array(["", "tumour"] * 20)}
    axes = before_and_after((view("After", 40),), groupings).axes[0]
    behind, before = axes.collections
    assert hues(behind) == [MUTED]
    assert set(hues(before)) == {PALETTE[0]}
    assert [len(np.asarray(drawn.get_offsets())) for drawn in (behind, before)] == [20, 20]


def test_more_groups_than_colours_differ_by_marker_and_a_long_legend_says_how_many_are_left() -> None:
    names = np.array([f"S{index:02}" for index in range(MOST_NAMED + 3)] * 2)
    figure = before_and_after((view("After", len(names)),), {"section": names})
    assert "and 3 more" in texts(figure)
    drawn = [c for c in figure.axes[0].collections if len(np.asarray(c.get_offsets()))]
    looks = set()
    for one in drawn:
        marker = np.asarray(one.get_paths()[0].vertices).tobytes()
        looks |= {(marker, hue) for hue in hues(one)}
    assert len(looks) == MOST_NAMED + 3
