"""Waiting for room: what is said, when, and when it is given up. The cluster is a value here; nothing starts Ray."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stray.errors import InputError
from stray.on_ray.usage import GIB, NodeUse, Usage
from stray.on_ray.waiting import AGAIN_S, FIRST_S, Need, Patience, Wait

OTHER = "job 02000000 (`python train.py`, process 71 on 10.0.0.2)"
WORKERS = Need("2 workers", {"CPU": 1.0}, 2)


def node(host: str, total: float, free: float, **more: float) -> NodeUse:
    return NodeUse(host, {"CPU": total, **more}, {"CPU": free, **more})


BUSY = Usage((node("10.0.0.1", 2, 0),), others={OTHER: {"CPU": 2.0}})
ROOM = Usage((node("10.0.0.1", 2, 2),))


class Cluster:
    """A cluster whose time the test sets."""

    def __init__(self, need: Need = WORKERS, minutes: float | None = 5.0) -> None:
        self.now, self.runs, self.usage = 0.0, False, BUSY
        self.said: list[tuple[float, str]] = []
        patience = Patience(minutes, lambda text: self.said.append((self.now, text)))
        self.wait = Wait(need, patience, lambda: self.runs, lambda: self.usage, lambda: self.now)

    def until(self, end: float) -> None:
        while self.now < end:
            self.now += 0.5
            self.wait.look()


def test_what_is_missing_and_who_holds_it_is_said_after_ten_seconds_and_every_minute() -> None:
    cluster = Cluster()
    cluster.until(200)
    assert [round(now) for now, _ in cluster.said] == [FIRST_S, FIRST_S + AGAIN_S, FIRST_S + 2 * AGAIN_S, 190]
    first = cluster.said[0][1]
    assert first == f"2 workers: waiting since 10 s; needed: 1 CPU each; free: 0 CPUs of 2 CPUs; 2 CPUs held by {OTHER}"


def test_it_is_given_up_in_the_end_with_what_to_do() -> None:
    cluster = Cluster(minutes=2.0)
    with pytest.raises(InputError) as caught:
        cluster.until(1000)
    assert cluster.now == pytest.approx(120, abs=1)
    (problem,) = caught.value.problems
    assert problem.place == "run.wait_minutes"
    assert "2 workers did not start within 2 min" in problem.what
    assert OTHER in problem.what
    assert "run.wait_minutes" in problem.remedy


def test_without_a_limit_it_waits_and_goes_on_saying_so() -> None:
    cluster = Cluster(minutes=None)
    cluster.until(4000)
    assert len(cluster.said) > 60


def test_while_something_runs_nothing_is_said_and_no_time_counts() -> None:
    cluster = Cluster(minutes=1.0)
    cluster.runs = True
    cluster.until(1000)
    assert not cluster.said
    cluster.runs = False  # its node is lost
    cluster.until(1000 + FIRST_S + 1)
    assert len(cluster.said) == 1
    with pytest.raises(InputError):
        cluster.until(1100)


def test_a_slow_start_with_room_is_said_late_and_bounded_too() -> None:
    cluster = Cluster(minutes=3.0)
    cluster.usage = ROOM
    cluster.until(AGAIN_S - 1)
    assert not cluster.said
    cluster.until(AGAIN_S + 1)
    assert "resources are free, starting" in cluster.said[0][1]
    with pytest.raises(InputError, match="the resources were free"):
        cluster.until(500)


def test_a_control_service_that_is_away_is_waited_for() -> None:
    cluster = Cluster()

    def away() -> bool:
        raise ConnectionError

    cluster.wait = replace(cluster.wait, runs=away)
    cluster.until(1000)
    assert not cluster.said


@pytest.mark.parametrize(
    ("need", "usage", "expected"),
    [
        (WORKERS, ROOM, ""),
        (WORKERS, replace(BUSY, own={"CPU": 2.0}, others={}), ""),
        (Need("w", {}, 1), Usage((node("a", 0, 0),)), ""),
        (Need("w", {"CPU": 2 / 3}, 3), Usage((node("a", 2, 2),)), ""),
        (WORKERS, Usage(()), "the cluster has no node"),
        (
            WORKERS,
            Usage((node("a", 1, 1),), gone=("b",)),
            "needed: 1 CPU each; the cluster has 1 CPU on a; gone: b",
        ),
        (
            Need("w", {"CPU": 3.0}, 1),
            Usage((node("a", 2, 2), node("b", 2, 2))),
            "needed: 3 CPUs; the cluster has 2 CPUs on a + 2 CPUs on b",
        ),
        (
            Need("w", {"CPU": 1.0, "GPU": 1.0}, 1),
            Usage((node("a", 2, 2, GPU=0),)),
            "needed: 1 CPU, 1 GPU; the cluster has 2 CPUs, 0 GPUs on a",
        ),
        (
            Need("w", {"CPU": 1.0, "memory": GIB}, 1),
            Usage((NodeUse("a", {"CPU": 1, "memory": 4 * GIB}, {"CPU": 1, "memory": GIB / 2}),)),
            "free: 1 CPU, 0.5 GiB of memory of 1 CPU, 4 GiB of memory",
        ),
    ],
    ids=["room", "its own", "nothing", "thirds", "no node", "a node gone", "no single node", "no GPU", "memory"],
)
def test_what_is_missing(need: Need, usage: Usage, expected: str) -> None:
    lack = need.lack(usage)
    assert expected in lack
    assert bool(lack) == bool(expected)
