"""The graph of stages: each runs once, after what it needs, the longest way first; what fails takes only its users."""

from __future__ import annotations

import pytest

from stray.experiment.graph import StageGraph


def fold(graph: StageGraph, name: str, seconds: float = 1.0, owner: str = "") -> None:
    """A gene stage and two image stages that read it."""
    graph.add(f"gene-{name}", seconds=seconds, owner=owner)
    for method in ("a", "b"):
        graph.add(f"image-{name}-{method}", needs=[f"gene-{name}"], seconds=10 * seconds, owner=owner)


def test_a_stage_is_taken_once_what_it_needs_is_done() -> None:
    graph = StageGraph()
    fold(graph, "A")
    assert graph.take("s1") == "gene-A"
    assert graph.take("s2") is None
    graph.done("gene-A")
    assert {graph.take("s1"), graph.take("s2")} == {"image-A-a", "image-A-b"}
    assert graph.take("s3") is None
    assert graph.unfinished == 2


def test_what_was_done_before_needs_no_place_in_the_graph() -> None:
    graph = StageGraph()
    graph.add("image", needs=["gene"])
    assert graph.take("s1") == "image"


def test_the_longest_way_to_the_end_goes_first_and_equals_in_their_order() -> None:
    graph = StageGraph()
    graph.add("alone", seconds=15)
    fold(graph, "short", 1.0)
    fold(graph, "long", 2.0)
    assert [graph.take(f"s{n}") for n in range(4)] == ["gene-long", "alone", "gene-short", None]
    equal = StageGraph()
    for name in "xyz":
        equal.add(name, seconds=1.0)
    assert [equal.take(f"s{n}") for n in range(3)] == ["x", "y", "z"]


def test_a_stage_that_two_ask_for_is_one_stage_and_stays_until_both_withdraw_it() -> None:
    graph = StageGraph()
    assert graph.add("gene", owner="one") == "open"
    assert graph.add("gene", owner="other") == "open"
    assert graph.unfinished == 1
    assert graph.withdraw("one") == ()
    assert graph.take("s1") == "gene"
    assert graph.add("gene", owner="third") == "running"
    assert graph.withdraw("other") == ()
    assert graph.withdraw("third") == ("gene",)
    graph.drop("gene")
    assert graph.unfinished == 0


def test_what_nobody_wants_is_not_run() -> None:
    graph = StageGraph()
    fold(graph, "A", owner="trial")
    graph.add("image-other", needs=["gene-A"], owner="another")
    graph.add("gene-A", owner="another")
    assert graph.withdraw("trial") == ()
    assert graph.take("s1") == "gene-A"
    graph.done("gene-A")
    assert graph.take("s1") == "image-other"
    assert graph.take("s2") is None


def test_a_failed_stage_takes_those_that_need_it_and_no_others() -> None:
    graph = StageGraph()
    fold(graph, "A")
    fold(graph, "B")
    graph.take("s1")
    assert graph.fail("gene-A") == ("gene-A", "image-A-a", "image-A-b")
    assert graph.fail("gene-A") == ()
    assert graph.take("s1") == "gene-B"
    assert graph.unfinished == 3
    # Asked for again, it is tried again.
    assert graph.add("gene-A") == "open"


@pytest.mark.parametrize("allowed", [0, 2])
def test_a_lost_slot_gives_its_stage_back_as_often_as_allowed(allowed: int) -> None:
    graph = StageGraph(allowed)
    fold(graph, "A")
    for _ in range(allowed):
        assert graph.take("s1") == "gene-A"
        assert graph.lose("s1") == ("gene-A", ())
        assert graph.lose("s1") == (None, ())
    assert graph.take("s2") == "gene-A"
    assert graph.lose("s2") == ("gene-A", ("gene-A", "image-A-a", "image-A-b"))
    assert graph.unfinished == 0
