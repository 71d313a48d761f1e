from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stray.track.spool import FILES, Item, Spool, leftovers

RUN = Item("run", "r", {"name": "cell"})
CHILD = Item("run", "c", {"name": "child"}, after="r")


def metrics(value: float, run: str = "r") -> Item:
    return Item("metrics", run, {"value": value})


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
from stray.track.spool import Item, Spool
spool = Spool({str(tmp_path)!r}, "http://host", "cohort")
spool.append(Item("run", "r", {{"name": "cell"}}))
spool.append(Item("metrics", "r", {{"value": 0.5}}))
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
    known = [Item(one.kind, one.run, {**one.body, "known": True}, one.after) for one in (RUN, CHILD)]
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


def test_files_move_with_their_items_and_sent_ones_are_left_out(tmp_path: Path) -> None:
    old = Spool(tmp_path, "http://host", "cohort")
    places = [old.place("figure.png") for _ in range(2)]
    for place in places:
        place.write_bytes(b"dots")
        old.append(Item("artifact", "r", {"path": str(place), "folder": ""}))
    old.close(remove=False)
    places[1].unlink()
    old.path.rename(tmp_path / "moved")
    new = Spool(tmp_path / "new", "http://host", "cohort")
    (left,), _ = leftovers(tmp_path / "moved")
    (item,) = new.adopt(left)
    assert Path(item.body["path"]).read_bytes() == b"dots"
    assert Path(item.body["path"]).is_relative_to(new.path / FILES)


def test_a_disk_without_room_is_said_once_and_what_fits_later_is_whole(tmp_path: Path) -> None:
    script = f"""
import resource, signal
from stray.track.spool import Item, Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool({str(tmp_path)!r}, "http://host", "cohort")
spool.append(Item("run", "r", {{"name": "cell"}}))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 2000))
for _ in range(2):
    spool.append(Item("params", "r", {{"long": "x" * 2000}}))
assert spool.failed
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
spool.append(Item("metrics", "r", {{"value": 0.5}}))
assert not spool.failed
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("in memory only") == 1
    assert leftovers(tmp_path)[0][0].items == (RUN, metrics(0.5))
