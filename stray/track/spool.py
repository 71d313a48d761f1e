"""Spool: a folder that keeps what a tracking store has not taken yet, so that a killed process loses nothing.

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
from dataclasses import dataclass, replace
from pathlib import Path

from stray.errors import InputError, Problem, raise_if_any, without_secrets
from stray.track.items import Item, LogArtifact, LogModel, OpenRun, decode, encode

logger = logging.getLogger(__name__)

ITEMS, FILES = "items.jsonl", "files"
FORMAT = 2
"""Version of the format of `items.jsonl`. A spool of another version is neither read nor removed."""


class Spool:
    """The spool of this process, locked while the process lives. Made with its first item."""

    def __init__(self, folder: str | os.PathLike[str], store: str, experiment: str) -> None:
        """Make the spool of this process.

        Args:
            folder: Folder of the spools of all processes.
            store: Address of the store that the items are for.
            experiment: Name of the experiment that they are for.
        """
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.home = Path(folder).expanduser().resolve()
        self.path = self.home / name
        self._header = {"format": FORMAT, "store": without_secrets(store), "experiment": experiment}
        self._file: int | None = None
        self._runs: dict[str, OpenRun] = {}
        self._written: set[str] = set()
        self._size = 0
        self.failed = False
        """Whether the disk did not take the last item."""

    @property
    def file(self) -> Path:
        """The file of items."""
        return self.path / ITEMS

    def append(self, item: Item) -> None:
        """Append an item, after those that open its runs. A full disk is reported once; items then wait in memory."""
        if isinstance(item, OpenRun):
            self._runs.setdefault(item.run, item)
        items = list(self._with_runs(item))
        try:
            self._write([encode(one) for one in items])
        except OSError as error:
            if not self.failed:
                what = "%s cannot be written (%s): what the tracking store has not taken yet is in memory only"
                logger.warning(what, self.file, error)
            self.failed = True
        else:
            self.failed = False
            self._written |= {one.run for one in items if isinstance(one, OpenRun)}

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
        """Write what was appended through to the disk."""
        if self._file is not None and not self.failed:
            with suppress(OSError):  # the process may still send it
                os.fdatasync(self._file)

    def place(self, name: str) -> Path:
        """Return a new place for a file or folder of that name, kept until it is sent."""
        target = self.path / FILES / uuid.uuid4().hex[:12] / name
        target.parent.mkdir(parents=True)
        return target

    def close(self, *, remove: bool) -> None:
        """Release the spool to other processes; `remove` it where everything was taken."""
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
            moved = replace(item, run=f"{old.path.name}/{item.run}")
            if isinstance(moved, OpenRun) and moved.parent is not None:
                moved = replace(moved, parent=f"{old.path.name}/{moved.parent}")
            if isinstance(moved, LogArtifact | LogModel):
                source = old.path / FILES / Path(moved.path).parent.name / Path(moved.path).name
                if not source.exists():
                    continue  # it was sent, and its copy removed
                target = self.place(source.name)
                shutil.move(source, target)
                moved = replace(moved, path=str(target))
            yield moved

    def _with_runs(self, item: Item) -> Iterator[Item]:
        """Yield the item after the `OpenRun`, not yet in the file, of the run that it needs."""
        needed = self._runs.get((item.parent or "") if isinstance(item, OpenRun) else item.run)
        if needed is not None and needed.run not in self._written:
            # Opened before, as far as the store goes: how it ended stays.
            yield from self._with_runs(replace(needed, known=True))
        yield item

    def _write(self, lines: list[str]) -> None:
        if self._file is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._size:
            lines = [json.dumps(self._header), *lines]
        content = "".join(line + "\n" for line in lines).encode()
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
    """Return the spools in `folder` (or `folder` itself) of processes that have ended, oldest first, and what is wrong
    with those that cannot be read.
    """
    home = Path(folder)
    places = [home] if (home / ITEMS).is_file() else sorted(path for path in home.glob("*") if path.is_dir())
    found: list[Leftover] = []
    problems: list[Problem] = []
    for place in places:
        text = ""
        if (place / ITEMS).is_file():
            with open(place / ITEMS, encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    continue  # its process lives
                text = file.read()
        if "\n" not in text:
            if not _is_new(place):
                shutil.rmtree(place, ignore_errors=True)  # files without an item that names them
            continue
        try:
            found.append(_read(place, text))
        except InputError as error:
            problems += error.problems
    return found, problems


def _is_new(place: Path) -> bool:
    return time.time() - place.stat().st_mtime < 3600


def _read(place: Path, text: str) -> Leftover:
    """Return the spool at `place`. Raises InputError, which names every line that is no item."""
    # A process that was killed may have left its last line half written.
    first, *lines = text[: text.rfind("\n") + 1].splitlines()
    try:
        header = json.loads(first)
        version, store, experiment = header.get("format", 1), str(header["store"]), str(header["experiment"])
    except (AttributeError, KeyError, ValueError) as error:
        what, remedy = f"does not say which store its items are for: {error}", "remove the folder: it cannot be sent"
        raise InputError(Problem(f"{place / ITEMS}, line 1", what, remedy)) from None
    if version != FORMAT:
        what = f"was left by another version of stray (format {version}; this version reads {FORMAT})"
        raise InputError(Problem(str(place), what, "send it with that version, or remove the folder"))
    items: list[Item] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 2):
        try:
            items.append(decode(line))
        except ValueError as error:
            what = f"is no tracked item: {error}"
            problems.append(Problem(f"{place / ITEMS}, line {number}", what, "remove the line, and send again"))
    raise_if_any(problems)
    return Leftover(place, store, experiment, tuple(items))
