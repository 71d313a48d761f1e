"""A folder that keeps what a tracking store has not taken yet, so that a killed process loses nothing.

Every item is appended to `items.jsonl` before it is sent; the file is emptied when all of it was taken. Copies of
artifacts lie beside it. A later process adopts the spools of processes that have ended. Delivery is at least once: the
sender asks the store what it has.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stray.errors import Problem, without_secrets

logger = logging.getLogger(__name__)

ITEMS, FILES = "items.jsonl", "files"


@dataclass(frozen=True)
class Item:
    """One thing to send: plain JSON, so that it can be kept in a file."""

    kind: str
    """Kind of the item, known to the sender. An item of kind "run" stands before all others of its run."""
    run: str
    """Name of its run within the spool."""
    body: dict[str, Any]
    """Content of the item."""
    after: str | None = None
    """Name of another run that must be there before."""


class Spool:
    """The spool of this process, locked while the process lives. Made with its first item."""

    def __init__(self, folder: str | os.PathLike[str], store: str, experiment: str) -> None:
        """`folder` holds the spools of all processes; `store` and `experiment` say where the items shall go."""
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.home = Path(folder).expanduser().resolve()
        self.path = self.home / name
        self._header = {"store": without_secrets(store), "experiment": experiment}
        self._file: int | None = None
        self._runs: dict[str, Item] = {}
        self._written: set[str] = set()
        self._size = 0
        self.failed = False
        """Whether the disk did not take the last item."""

    @property
    def file(self) -> Path:
        """The file of items."""
        return self.path / ITEMS

    def append(self, item: Item) -> None:
        """Keep an item, after those that open its runs. A disk that takes no more is said once; items then wait in
        memory alone.
        """
        if item.kind == "run":
            self._runs.setdefault(item.run, item)
        lines = [asdict(one) for one in self._with_runs(item)]
        try:
            self._write(lines)
        except OSError as error:
            if not self.failed:
                what = "%s cannot be written (%s): what the tracking store has not taken yet is in memory only"
                logger.warning(what, self.file, error)
            self.failed = True
        else:
            self.failed = False

    def keep(self, items: Iterable[Item]) -> None:
        """Forget all items but these."""
        self._written.clear()
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, 0)
            self._size = 0
        except OSError as error:
            logger.warning("%s cannot be emptied: %s", self.file, error)
        for item in items:
            self.append(item)

    def sync(self) -> None:
        """Have the disk keep what was appended."""
        if self._file is not None and not self.failed:
            with suppress(OSError):  # the process may still send it
                os.fdatasync(self._file)

    def place(self, name: str) -> Path:
        """Return a new place for a file or folder of that name, kept until it is sent."""
        target = self.path / FILES / uuid.uuid4().hex[:12] / name
        target.parent.mkdir(parents=True)
        return target

    def close(self, *, remove: bool) -> None:
        """Let other processes have the spool; `remove` it where everything was taken."""
        if remove:
            shutil.rmtree(self.path, ignore_errors=True)
            if self.home.is_dir() and not any(self.home.iterdir()):
                self.home.rmdir()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def adopt(self, old: Leftover) -> Iterator[Item]:
        """Yield the items of another process's spool, their files moved here; `old.remove` once all are appended."""
        for item in old.items:
            body = dict(item.body)
            if "path" in body:
                source = old.path / FILES / Path(body["path"]).parent.name / Path(body["path"]).name
                if not source.exists():
                    continue  # it was sent, and its copy removed
                target = self.place(source.name)
                shutil.move(source, target)
                body["path"] = str(target)
            yield Item(item.kind, f"{old.path.name}/{item.run}", body, item.after and f"{old.path.name}/{item.after}")

    def _with_runs(self, item: Item) -> Iterator[Item]:
        """Yield the item after the items, not yet in the file, of the runs that it needs."""
        own = item.run if item.kind != "run" else None
        for run in (item.after, own):
            known = self._runs.get(run or "")
            if known is not None and known.run not in self._written:
                # Opened before, as far as the store goes: how it ended stays.
                yield from self._with_runs(Item(known.kind, known.run, {**known.body, "known": True}, known.after))
        if item.kind == "run":
            self._written.add(item.run)
        yield item

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if self._file is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._size:
            lines = [self._header, *lines]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        try:
            written = os.write(self._file, content)
            if written < len(content):
                raise OSError(f"only {written} of {len(content)} bytes were written")
        except OSError:
            os.ftruncate(self._file, self._size)  # no half lines
            raise
        self._size += len(content)


@dataclass(frozen=True)
class Leftover:
    """The spool of a process that has ended."""

    path: Path
    store: str
    """Address of the store that the items are for, without its secrets."""
    experiment: str
    items: tuple[Item, ...]

    def remove(self) -> None:
        """Remove it: its items are kept elsewhere, or sent."""
        shutil.rmtree(self.path, ignore_errors=True)


def leftovers(folder: str | os.PathLike[str]) -> tuple[list[Leftover], list[Problem]]:
    """Return the spools in `folder`, or that which `folder` is, of processes that have ended, oldest first; and a
    problem for every line that is no item.
    """
    home = Path(folder)
    places = [home] if (home / ITEMS).is_file() else sorted(path for path in home.glob("*") if path.is_dir())
    found: list[Leftover] = []
    problems: list[Problem] = []
    for place in places:
        if not (place / ITEMS).is_file():
            if not _is_new(place):
                shutil.rmtree(place, ignore_errors=True)  # files without an item that names them
            continue
        with open(place / ITEMS, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                continue  # its process lives
            left, wrong = _read(place, file.read())
            found += [left] if not wrong else []
            problems += wrong
    return found, problems


def _is_new(place: Path) -> bool:
    return time.time() - place.stat().st_mtime < 3600


def _read(place: Path, text: str) -> tuple[Leftover, list[Problem]]:
    # A process that was killed may have left its last line half written.
    lines = text[: text.rfind("\n") + 1].splitlines()
    problems: list[Problem] = []
    items: list[Item] = []
    header = {"store": "", "experiment": ""}
    for number, line in enumerate(lines, 1):
        try:
            tree = json.loads(line)
            if number == 1:
                header = {name: str(tree[name]) for name in header}
                continue
            item = Item(**tree)
            if not (isinstance(item.run, str) and isinstance(item.body, dict)):
                raise TypeError("a run and a body are missing")
            items.append(item)
        except (TypeError, ValueError, KeyError) as error:
            what = f"is no tracked item: {error}"
            problems.append(Problem(f"{place / ITEMS}, line {number}", what, "remove the line, and send again"))
    return Leftover(place, header["store"], header["experiment"], tuple(items)), problems
