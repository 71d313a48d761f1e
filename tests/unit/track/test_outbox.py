from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stray.track.items import Item, LogMetrics, LogParams, OpenRun
from stray.track.outbox import Outbox
from stray.track.spool import Leftover, Spool, leftovers


class Away(Exception):
    """The other side does not answer."""


class Wrong(Exception):
    """The other side refuses."""


OPENED = OpenRun(run="r", name="cell", tags={})
WRONG = LogParams(run="r", values={"wrong": "yes"})


class Desk:
    """The other side of an outbox: takes items while it is open."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.taken: list[Item] = []
        self.batches: list[int] = []
        self.knocks = 0

    def take(self, items: list[Item]) -> None:
        self.knocks += 1
        if not self.open.is_set():
            raise Away("nobody there")
        if WRONG in items:
            raise Wrong("not like this")
        self.taken += items
        self.batches.append(len(items))


def outbox(desk: Desk, folder: Path) -> Outbox:
    return Outbox(desk.take, lambda error: isinstance(error, Away), Spool(folder, "http://host", "cohort"))


def left_in(folder: Path) -> Leftover:
    (found,), problems = leftovers(folder)
    assert not problems
    return found


def metrics(count: int, run: str = "r") -> list[Item]:
    return [LogMetrics(run=run, points=(("value", None, float(index)),), time=0) for index in range(count)]


def params(count: int) -> list[Item]:
    return [LogParams(run="r", values={"value": str(index)}) for index in range(count)]


def test_items_arrive_in_order_and_alike_ones_together(tmp_path: Path) -> None:
    desk = Desk()
    desk.open.clear()
    box = outbox(desk, tmp_path)
    # The first is taken at once, and the others wait behind it.
    sent = [*metrics(1, run="first"), *metrics(50), *params(1), *metrics(50, run="other"), *metrics(5)]
    for item in sent:
        box.put(item)
    desk.open.set()
    assert box.flush(10)
    assert desk.taken == sent
    assert desk.batches == [1, 50, 1, 50, 5]
    assert box.close(1) is None
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


def test_an_absent_other_side_delays_but_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.open.clear()
    box = outbox(desk, tmp_path)
    with caplog.at_level(logging.WARNING):
        start = time.monotonic()
        for item in metrics(500):
            box.put(item)
        assert time.monotonic() - start < 0.5
        assert not box.flush(0.8)
        assert desk.taken == []
        assert 1 <= desk.knocks <= 3
        desk.open.set()
        assert box.flush(10)
    assert desk.taken == metrics(500)
    assert caplog.records[0].message.startswith("the tracking store does not answer")
    assert caplog.records[-1].message.startswith("the tracking store answers again")
    box.close(1)


def test_what_is_unsent_at_the_end_is_kept_and_can_be_sent_later(tmp_path: Path) -> None:
    desk = Desk()
    desk.open.clear()
    box = outbox(desk, tmp_path / "unsent")
    for item in [OPENED, *metrics(30)]:
        box.put(item)
    start = time.monotonic()
    kept = box.close(1.0)
    assert time.monotonic() - start < 3
    assert kept is not None
    assert left_in(kept.parent).items == (OPENED, *metrics(30))
    assert box.close(1.0) is None
    with pytest.raises(RuntimeError, match="closed"):
        box.put(metrics(1)[0])
    knocks = desk.knocks
    desk.open.set()
    time.sleep(1.5)
    assert desk.taken == []
    assert desk.knocks <= knocks + 1


def test_closing_waits_for_one_who_comes_back_in_time(tmp_path: Path) -> None:
    desk = Desk()
    desk.open.clear()
    box = outbox(desk, tmp_path)
    for item in metrics(3):
        box.put(item)
    threading.Timer(0.7, desk.open.set).start()
    assert box.close(10) is None
    assert desk.taken == metrics(3)


def test_what_is_refused_holds_nothing_up_and_is_kept(tmp_path: Path) -> None:
    desk = Desk()
    box = outbox(desk, tmp_path)
    desk.open.clear()
    fine = params(9)
    for item in [OPENED, *fine[:4], WRONG, *fine[4:]]:
        box.put(item)
    desk.open.set()
    assert box.flush(10)
    assert desk.taken == [OPENED, *fine]
    kept = box.close(1)
    assert kept is not None
    assert left_in(tmp_path).items == (replace(OPENED, known=True), WRONG)
