from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stray.track.items import (
    CloseRun,
    Item,
    LogArtifact,
    LogMetrics,
    LogModel,
    LogParams,
    OpenRun,
    SetTags,
    decode,
    encode,
)
from stray.track.spool import FILES, Spool, leftovers

RUN = OpenRun(run="r", name="cell", tags={})
CHILD = OpenRun(run="c", name="child", tags={}, parent="r")


def metrics(value: float, run: str = "r") -> LogMetrics:
    return LogMetrics(run=run, points=(("value", None, value),), time=0)


def ended(folder: Path, *items: Item, keep: tuple[Item, ...] | None = None) -> Spool:
    """A spool whose process has ended."""
    spool = Spool(folder, "http://ann:hunter2@host", "cohort")
    for item in items:
        spool.append(item)
    if keep is not None:
        spool.keep(keep)
    spool.close(remove=False)
    return spool


def test_what_a_killed_process_had_not_sent_is_there(tmp_path: Path) -> None:
    script = f"""
import os, signal
from stray.track.items import LogMetrics, OpenRun
from stray.track.spool import Spool
spool = Spool({str(tmp_path)!r}, "http://host", "cohort")
spool.append(OpenRun(run="r", name="cell", tags={{}}))
spool.append(LogMetrics(run="r", points=(("value", None, 0.5),), time=0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    (left,), problems = leftovers(tmp_path)
    assert not problems
    assert (left.store, left.experiment, left.items) == ("http://host", "cohort", (RUN, metrics(0.5)))


def test_a_living_process_keeps_its_own(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "http://host", "cohort")
    spool.append(RUN)
    assert leftovers(tmp_path) == ([], [])
    spool.close(remove=False)
    assert [left.path for left in leftovers(tmp_path)[0]] == [spool.path]


def test_items_stand_after_the_runs_that_they_need_and_sent_ones_go(tmp_path: Path) -> None:
    spool = ended(tmp_path, RUN, CHILD, metrics(1.0, "c"), metrics(2.0), keep=(metrics(3.0, "c"),))
    (left,), _ = leftovers(tmp_path)
    known = [replace(one, known=True) for one in (RUN, CHILD)]
    assert left.items == (*known, metrics(3.0, "c"))
    assert "hunter2" not in spool.file.read_text()


def test_a_last_line_that_is_half_written_is_left_out_and_another_is_named(tmp_path: Path) -> None:
    spool = ended(tmp_path, RUN, metrics(1.0))
    whole = spool.file.read_text()
    spool.file.write_text(whole + '{"kind": "metr')
    assert leftovers(tmp_path)[0][0].items == (RUN, metrics(1.0))
    spool.file.write_text(whole + '{"a": 1}\n')
    found, (problem,) = leftovers(tmp_path)
    assert not found
    assert problem.place == f"{spool.file}, line 4"


def test_a_spool_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    spool = ended(tmp_path, RUN)
    header, *lines = spool.file.read_text().splitlines()
    of_old = {name: value for name, value in json.loads(header).items() if name != "format"}
    spool.file.write_text("\n".join([json.dumps(of_old), *lines, ""]))
    found, (problem,) = leftovers(tmp_path)
    assert not found
    assert problem.place == str(spool.path)
    assert "another version of stray" in problem.what
    assert spool.file.exists()
    spool.file.write_text("no header\n")
    found, (problem,) = leftovers(tmp_path)
    assert not found
    assert problem.place == f"{spool.file}, line 1"


def test_a_process_killed_after_all_was_sent_leaves_nothing_to_send(tmp_path: Path) -> None:
    spool = ended(tmp_path, RUN, keep=())
    assert leftovers(tmp_path) == ([], [])
    assert spool.path.exists()  # it may be that of a process that begins just now
    os.utime(spool.path, (0, 0))
    assert leftovers(tmp_path) == ([], [])
    assert not spool.path.exists()


def test_a_run_that_the_disk_did_not_take_is_written_with_its_next_item(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", "http://host", "cohort")
    (tmp_path / "home").write_text("in the way")
    spool.append(RUN)
    assert spool.failed
    (tmp_path / "home").unlink()
    spool.append(metrics(1.0))
    spool.close(remove=False)
    (left,), _ = leftovers(tmp_path / "home")
    assert left.items == (replace(RUN, known=True), metrics(1.0))


@pytest.mark.parametrize(
    "item",
    [
        replace(CHILD, known=True, tags={"a": "b"}),
        LogParams(run="r", values={"optim.lr": "0.1"}),
        LogMetrics(run="r", points=(("loss", None, 0.5), ("loss", 3, float("inf"))), time=1),
        SetTags(run="r", values={"a": "\u2028"}),
        LogArtifact(run="r", path="/a/b.png", folder="figures"),
        LogModel(run="r", path="/a/model", name="encoder"),
        CloseRun(run="r", status="KILLED", time=2),
    ],
    ids=lambda item: item.kind,
)
def test_an_item_is_read_as_it_was_written(item: Item) -> None:
    line = encode(item)
    assert len(line.splitlines()) == 1
    assert decode(line) == item


def test_files_move_with_their_items_and_sent_ones_are_left_out(tmp_path: Path) -> None:
    old = Spool(tmp_path, "http://host", "cohort")
    places = [old.place("figure.png") for _ in range(2)]
    for place in places:
        place.write_bytes(b"dots")
        old.append(LogArtifact(run="r", path=str(place), folder=""))
    old.close(remove=False)
    places[1].unlink()
    old.path.rename(tmp_path / "moved")
    new = Spool(tmp_path / "new", "http://host", "cohort")
    (left,), _ = leftovers(tmp_path / "moved")
    (item,) = new.adopt(left)
    assert isinstance(item, LogArtifact)
    assert Path(item.path).read_bytes() == b"dots"
    assert Path(item.path).is_relative_to(new.path / FILES)


def test_a_disk_without_room_is_said_once_and_what_fits_later_is_whole(tmp_path: Path) -> None:
    script = f"""
import resource, signal
from stray.track.items import LogMetrics, LogParams, OpenRun
from stray.track.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool({str(tmp_path)!r}, "http://host", "cohort")
spool.append(OpenRun(run="r", name="cell", tags={{}}))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 2000))
for _ in range(2):
    spool.append(LogParams(run="r", values={{"long": "x" * 2000}}))
assert spool.failed
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
spool.append(LogMetrics(run="r", points=(("value", None, 0.5),), time=0))
assert not spool.failed
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("in memory only") == 1
    assert leftovers(tmp_path)[0][0].items == (RUN, metrics(0.5))
