"""The folder of a finished stage: weights, panel, settings, curves. Loaded without Ray by later stages and by `stray
embed`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from pyarrow import fs

from stray import __version__, storage
from stray.cohort.manifest import file_sha256
from stray.errors import InputError, Problem

DONE = "done.json"
"""File that is written last: its presence marks the folder as complete."""
RESULTS = 1
"""Version of what stages compute and keep. Raise it when the same settings and data come to other results: what an
earlier stray left is then not found again.
"""
T = TypeVar("T")


def digest(*parts: Any) -> str:
    """Return a short digest of settings (dataclasses, arrays, plain values): the key under which a result is found
    again.
    """
    blake = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray):
            blake.update(np.ascontiguousarray(part).tobytes())
        elif dataclasses.is_dataclass(part) and not isinstance(part, type):
            blake.update(json.dumps([type(part).__name__, dataclasses.asdict(part)], sort_keys=True).encode())
        else:
            blake.update(json.dumps(part, sort_keys=True).encode())
        blake.update(b"\0")
    return blake.hexdigest()


def result_key(*parts: Any) -> str:
    """Return the digest of everything that a result is a function of, and of the version of stray's own results."""
    return digest(RESULTS, *parts)


class ResultFolder:
    """A folder at a path or URI whose files appear before its mark of completion.

    The mark lists the size and SHA-256 of every file. Where a file does not agree, the folder counts as not done.
    """

    def __init__(self, path: str) -> None:
        self.path = storage.absolute(path)
        self._written: dict[str, dict[str, Any]] = {}

    def is_done(self) -> bool:
        """Return whether all files were written and are unchanged."""
        return self._place(DONE) is not None and self.damage() is None

    def damage(self) -> str | None:
        """Return the fault of a folder that was finished; None where it is whole, or was never finished.

        A file's content is read once per process, as long as its size and time of change stay.
        """
        place = self._place(DONE)
        if place is None:
            return None
        try:
            facts = self._facts()
        except ValueError as error:
            return f"{DONE} cannot be read ({error})"
        for name, entry in facts.get("files", {}).items():
            info = self._place(name)
            if info is None:
                return f"{name} is missing"
            if info.size != entry["bytes"]:
                return f"{name} has {info.size} bytes, {entry['bytes']} were written"
            if _sha256_of(storage.join(self.path, name), info) != entry["sha256"]:
                return f"the content of {name} has changed (SHA-256 differs)"
        return None

    def require(self, kind: str, remedy: str) -> None:
        """Raise InputError unless this is the whole folder of a result of `kind`."""
        if self._place(DONE) is None:
            present = f"has no {DONE}: it is no result of stray, or incomplete"
            what = present if storage.exists(self.path) else "does not exist"
        elif (damage := self.damage()) is not None:
            what = f"is damaged: {damage}"
            remedy = (
                "run the `stray train` command that wrote it again: it recomputes damaged results; or copy it again"
            )
        elif (found := self.kind()) != kind:
            what = f"holds a result of kind {found!r}, not {kind!r}"
        else:
            return
        raise InputError(Problem(self.path, what, remedy))

    def kind(self) -> str | None:
        """Return the kind of result that it holds; None where the folder is not whole."""
        return self.facts().get("kind") if self.is_done() else None

    def clear(self) -> None:
        """Delete its files, the mark of completion first."""
        filesystem, inner = storage.resolve(self.path)
        if self._place(DONE) is not None:
            filesystem.delete_file(f"{inner}/{DONE}")
        for info in filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True)):
            remove = filesystem.delete_dir if info.type == fs.FileType.Directory else filesystem.delete_file
            remove(info.path)
        self._written.clear()

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the folder as whole, with the size and SHA-256 of every file in it."""
        files = {name: self._written.get(name) or _entry(self._read(name)) for name in sorted(self._names())}
        self.write_json(DONE, {"stray": __version__, **facts, "files": files})

    def facts(self) -> dict[str, Any]:
        """Return what `finish` was given. Raises InputError when it cannot be read."""
        try:
            return self._facts()
        except (OSError, ValueError) as error:
            raise self._damaged(DONE, error) from error

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        storage.write_bytes(storage.join(self.path, name), content)
        self._written[name] = _entry(content)

    def read_bytes(self, name: str) -> bytes:
        """Return the content of a file. Raises InputError when there is none."""
        try:
            return self._read(name)
        except OSError as error:
            raise self._damaged(name, error) from error

    def write_json(self, name: str, tree: Any) -> None:
        """Write `tree` as JSON."""
        self.write_bytes(name, json.dumps(tree, indent=1).encode())

    def read_json(self, name: str) -> Any:
        """Read what `write_json` wrote. Raises InputError when it cannot be read."""
        return self.read_with(name, json.loads)

    def write_array(self, name: str, array: np.ndarray) -> None:
        """Write an array as .npy."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        self.write_bytes(name, buffer.getvalue())

    def read_array(self, name: str) -> np.ndarray:
        """Read what `write_array` wrote. Raises InputError when it cannot be read."""
        return self.read_with(name, lambda content: np.load(io.BytesIO(content), allow_pickle=False))

    def write_weights(self, name: str, state: dict[str, Any]) -> None:
        """Write a state_dict."""
        buffer = io.BytesIO()
        torch.save({key: value.cpu() for key, value in state.items()}, buffer)
        self.write_bytes(name, buffer.getvalue())

    def read_weights(self, name: str) -> dict[str, Any]:
        """Read what `write_weights` wrote, on the CPU. Raises InputError when it cannot be read."""
        return self.read_with(
            name, lambda content: torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        )

    def read_with(self, name: str, decode: Callable[[bytes], T]) -> T:
        """Return what `decode` makes of a file. Raises InputError when there is none, or `decode` fails."""
        content = self.read_bytes(name)
        try:
            return decode(content)
        except Exception as error:  # torch, zip and numpy raise many kinds of exceptions
            raise self._damaged(name, error) from error

    def _facts(self) -> dict[str, Any]:
        facts = json.loads(self._read(DONE))
        if not isinstance(facts, dict) or "stray" not in facts:
            raise ValueError("it was not written by stray")
        # Folders of earlier versions list no files.
        files = facts.get("files", {})
        if not isinstance(files, dict):
            raise ValueError("it lists no files")
        for name, entry in files.items():
            if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
                raise ValueError(f"it does not say what {name} is")
        return facts

    def _damaged(self, name: str, error: Exception) -> InputError:
        reason = " ".join(str(error).split())  # pydantic and torch write several lines
        what = f"cannot be read ({type(error).__name__}: {reason[:300]})"
        remedy = (
            f"delete {storage.join(self.path, DONE)} and run the `stray train` command again: it recreates the folder"
        )
        return InputError(Problem(storage.join(self.path, name), what, remedy))

    def _read(self, name: str) -> bytes:
        return storage.read_bytes(storage.join(self.path, name))

    def _place(self, name: str) -> fs.FileInfo | None:
        filesystem, inner = storage.resolve(storage.join(self.path, name))
        info = filesystem.get_file_info(inner)
        return info if info.type == fs.FileType.File else None

    def _names(self) -> list[str]:
        """Return the files of the folder, without its mark of completion and half-written files of a killed process."""
        filesystem, inner = storage.resolve(self.path)
        infos = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
        names = [info.base_name for info in infos if info.type == fs.FileType.File]
        return [name for name in names if name != DONE and not name.endswith(".partial")]


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


_SEEN: dict[tuple[str, int | None, int], str] = {}
"""SHA-256 of files that this process has read, by path, time of change and size."""


def _sha256_of(path: str, info: fs.FileInfo) -> str:
    key = (path, info.mtime_ns, info.size)
    if key not in _SEEN:
        _SEEN[key] = file_sha256(path)
    return _SEEN[key]


RATE = "spots_per_second"
"""Metric of every epoch."""


def _place(config: Any, root: str) -> str:
    return storage.join(root, "rates", f"{digest(config)}.json")


def keep_rate(config: Any, root: str, history: Sequence[Mapping[str, float]]) -> None:
    """Keep the median speed of the epochs after the first, in which threads and kernels warm up."""
    rates = [epoch[RATE] for epoch in history if RATE in epoch]
    if rates:
        text = json.dumps({RATE: statistics.median(rates[1:] or rates)})
        storage.write_bytes(_place(config, root), text.encode())


def measured_rate(config: Any, root: str) -> float | None:
    """Return the spots/s of training with `config` below `root`; None where nothing, or nothing whole, was kept."""
    try:
        rate = float(json.loads(storage.read_bytes(_place(config, root)))[RATE])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rate if rate > 0 else None
