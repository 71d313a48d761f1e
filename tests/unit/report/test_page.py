from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from stray.report.definitions import definitions
from stray.report.page import comparison_page
from stray.report.tables import Comparison, Delta, MethodRow, SourceTable, cells_text, p_text, score_text

MAJORITY = MethodRow(
    method="majority class", cells={("A", 0): 0.25, ("B", 0): 0.3}, confusion_KK=np.array([[0, 5], [0, 9]])
)
UNTRAINED = MethodRow(
    method="untrained", cells={("A", 0): 0.4, ("B", 0): 0.6}, pooled={"accuracy": 0.51, "macro_f1_fold": 0.49}
)
BEST = MethodRow(
    method="<b>clip</b>",
    cells={("A", 0): 0.7},
    intervals={("A", 0): (0.61, 0.79)},
    auc={"fat": 0.912},
    confusion_KK=np.array([[4, 1], [3, 6]]),
    delta=Delta(mean=0.3, sd=math.nan, n_pairs=1, n_folds=1, p=math.nan),
    missing=(("B", 0),),
)


@pytest.fixture
def comparison() -> Comparison:
    table = SourceTable(
        source="annotated",
        weak=False,
        classes=("fat", "in situ"),
        support_K=np.array([5, 9]),
        rows=(MAJORITY, UNTRAINED, BEST),
        missing_classes={"A": ("in situ",)},
    )
    return Comparison(
        experiment="cohort & co",
        metric="balanced_accuracy",
        baseline="untrained",
        sources=(table, replace(table, source="transferred", weak=True)),
        curves={"contrastive/loss": {("untrained", ("A", 0)): ((1.0, 2.0), (2.0, 1.0))}},
        notes=("<clip> lacks fold B seed 0.",),
        facts={"Dataset digest": "d1g35t"},
        params={"contrastive.epochs": "25", "gene.model.kind": "scvi"},
    )


class Page(HTMLParser):
    """Open tags, links, and the text of a page."""

    VOID = frozenset({"meta", "br", "link", "img", "use", "path", "rect", "circle", "line", "image"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_needs_nothing_else(comparison: Comparison) -> None:
    html = comparison_page(comparison)
    page = Page(html)
    assert page.open == []
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "img", "iframe"} & page.tags
    assert not re.search(r"url\((?!#)", html)
    assert "prefers-color-scheme: dark" in html


def test_the_page_says_what_a_reader_must_know(comparison: Comparison) -> None:
    text = Page(comparison_page(comparison)).text
    for said in (
        "cohort & co",
        "0.700 [0.610, 0.790]",
        "0.500 ± 0.141",
        "+0.300",
        "n = 1, too few folds",
        "1 fold x 1 seed1 missing",
        "Fold A: no training patient has in situ",
        "<clip> lacks fold B seed 0.",
        "Scores on transferred labelsweak labels",
        "0.912",
        "d1g35t",
        "contrastive.epochs",
        *(term for term, _ in definitions()),
    ):
        assert said in text, said
    # A method is called best among trusted scores only, and its name is text, not markup.
    assert "Highest balanced accuracy: <b>clip</b>, 0.700" in text


def test_a_page_of_weak_labels_alone_claims_no_best(comparison: Comparison) -> None:
    text = Page(comparison_page(replace(comparison, sources=comparison.sources[1:]))).text
    assert "Highest" not in text
    assert "No trusted label source was scored" in text


def test_a_lone_method_without_predictions_or_curves_is_a_page_too(comparison: Comparison) -> None:
    table = replace(comparison.sources[0], rows=(replace(MAJORITY, confusion_KK=None), UNTRAINED), missing_classes={})
    page = Page(comparison_page(replace(comparison, sources=(table,), baseline=None, curves={}, notes=(), params={})))
    assert "Against" not in page.text
    assert "What was taken for what" not in page.text


def test_numbers_as_text() -> None:
    assert score_text(UNTRAINED) == "0.500 ± 0.141"
    assert score_text(replace(UNTRAINED, cells={("A", 0): 0.4})) == "0.400"
    seeds = replace(BEST, cells={("A", 0): 0.6, ("A", 1): 0.8}, intervals={("A", 0): (0.5, 0.7), ("A", 1): (0.7, 0.9)})
    assert score_text(seeds) == "0.700 [0.500, 0.900]"
    assert cells_text(seeds) == "1 fold x 2 seeds, 1 missing"
    assert p_text(Delta(mean=0.1, sd=0.1, n_pairs=6, n_folds=6, p=0.03125)) == "p = 0.031, n = 6"
    assert p_text(Delta(mean=0.1, sd=0.1, n_pairs=20, n_folds=20, p=1e-5)) == "p < 0.001, n = 20"


def test_rows_are_found_on_the_trusted_source_first(comparison: Comparison) -> None:
    assert comparison.row("untrained").mean == 0.5
    assert comparison.row("untrained", "transferred").mean == 0.5
    with pytest.raises(KeyError):
        comparison.row("absent")
