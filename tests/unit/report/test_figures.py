from __future__ import annotations

import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stray.report import figures
from stray.report.style import INK, to_svg
from stray.report.tables import MethodRow

ROWS = (
    MethodRow(method="majority class", cells={("A", 0): 0.25, ("B", 0): 0.3}, confusion_KK=np.array([[0, 5], [0, 9]])),
    MethodRow(method="clip <scVI>", cells={("A", 0): 0.5, ("B", 0): 0.6}, confusion_KK=np.array([[4, 1], [3, 6]])),
)


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_confusion_matrix_shows_every_count_under_its_classes(tmp_path: Path) -> None:
    truth = ["a", "a", "b", None, "b", "b"]
    path = figures.confusion_figure(truth, ["a", "b", "b", "a", "b", "b"], tmp_path / "confusion.png", "clip")
    with Image.open(path) as picture:
        assert min(picture.size) > 200
        assert np.asarray(picture.convert("L")).std() > 5
    shown = texts(to_svg(figures.confusion_matrix(np.array([[1, 1], [0, 3]]), ("a", "b")), "c", "counts"))
    assert [text for text in shown if text.isdigit()] == ["1", "1", "3"]
    assert {"a", "b", "predicted", "true class"} <= set(shown)
    with pytest.raises(ValueError, match="no spot"):
        figures.confusion_figure([None], ["a"], tmp_path / "none.png")


def test_svg_is_well_formed_themed_and_shares_no_id_with_another() -> None:
    one = to_svg(figures.dots_per_fold(ROWS, "balanced accuracy"), "one", 'dots "by" fold & seed')
    other = to_svg(figures.dots_per_fold(ROWS, "balanced accuracy"), "other", "dots")
    assert {"clip", "<scVI>"} <= set(" ".join(texts(one)).split())
    assert INK not in one
    assert "currentColor" in one
    assert ElementTree.fromstring(one).get("aria-label") == 'dots "by" fold & seed'
    ids = [{node.get("id") for node in ElementTree.fromstring(svg).iter() if node.get("id")} for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert one == to_svg(figures.dots_per_fold(ROWS, "balanced accuracy"), "one", 'dots "by" fold & seed')


def test_the_heat_map_gives_recall_of_classes_that_occur() -> None:
    figure = figures.recall_heatmap(ROWS, ("a", "b"), np.array([5, 9]))
    assert {"0.80", "0.67", "1.00", "0.00"} <= set(texts(to_svg(figure, "heat", "recall")))
    figure = figures.recall_heatmap(ROWS, ("a", "b"), np.array([0, 9]))
    assert "0.80" not in texts(to_svg(figure, "heat", "recall"))


def test_curves_name_each_method_once() -> None:
    curves = {("clip", ("A", seed)): ((1.0, 3.0), (2.0, 2.0)) for seed in range(3)}
    curves["mlp", ("A", 0)] = ((1.0, 4.0), (2.0, 3.5))
    shown = texts(to_svg(figures.training_curves(curves, "contrastive/loss", "epoch"), "curve", "loss"))
    assert (shown.count("clip"), shown.count("mlp"), shown.count("contrastive/loss")) == (1, 1, 1)


def test_threads_may_draw_at_once() -> None:
    expected = to_svg(figures.dots_per_fold(ROWS, "accuracy"), "x", "dots")
    drawn: list[str] = []
    threads = [
        threading.Thread(target=lambda: drawn.append(to_svg(figures.dots_per_fold(ROWS, "accuracy"), "x", "dots")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [expected] * 4


def test_names_of_any_script_and_with_dollar_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    # A warning of a missing glyph would be an error here.
    classes = ("癌", r"$\frac$ of $x$", "\x1b[2J", "क्ष")
    path = figures.confusion_figure(classes, classes, tmp_path / "confusion.png", "患者 $_$")
    assert Path(path).stat().st_size > 1000
    drawn = to_svg(figures.confusion_matrix(np.eye(3, dtype=int), classes[:3]), "c", "counts")
    assert "癌" in drawn
    assert r"$\frac$ of $x$" in drawn


def test_a_home_that_cannot_be_written_is_not_talked_about() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"} | {"HOME": "/proc/none"}
    command = [sys.executable, "-c", "import stray.report.figures"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
