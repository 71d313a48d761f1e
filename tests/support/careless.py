"""Bad inputs, each one mutation away from a tiny good cohort: how they are made, ingested and judged.

`careless_cases.py` holds the table of them.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from stray.cohort.build import build_dataset
from stray.config.ingest import H5adSourceConfig, Her2stSourceConfig, IngestConfig
from stray.errors import InputError
from tests.support.tiny import PATCH, make_h5ad, write_her2st

TEXT = h5py.string_dtype()
MOST_BYTES = 8 * 2**30
"""Address space of the process for deadly cases."""


@dataclass(frozen=True)
class Case:
    """One bad input, and what must become of it."""

    kind: str
    name: str
    spoil: Callable[[Path], None]
    """Leaves the input in a folder that is its own: bad.h5ad and what belongs to it, or her2st with section B1."""
    says: str
    """Part of the error, or of what is said where it is read."""
    read: bool = False
    """Whether it is read."""
    deadly: bool = False
    """Whether it ended, filled or stopped a process once: it is run in a process of its own."""


@dataclass
class Outcome:
    """What became of a case."""

    problems: list[tuple[str, str, str]] = field(default_factory=list)
    """Place, what, remedy."""
    said: list[str] = field(default_factory=list)
    """Warnings and reasons for dropped spots; of a case that was read."""
    read: bool = False
    left: list[str] = field(default_factory=list)
    """What stands in the output of a case that was refused."""


def run_cases(cases: Sequence[Case], folder: Path) -> list[Outcome]:
    """Ingest all cases beside good sections, without those that were refused, until the rest is read.

    Fails where a problem belongs to none of the cases, or a good section is not read in the end.
    """
    source, her2st = folder / "h5ad", folder / "her2st"
    source.mkdir(parents=True)
    for number, case in enumerate(cases):
        own = folder / f"case{number}"
        own.mkdir()
        case.spoil(own)
        _lay_out(own, number, source, her2st)
    (source / "good.h5ad").write_bytes(good_h5ad())
    write_her2st(her2st, "A1", labels=True, image=True)
    found = [Outcome() for _ in cases]
    sources = (H5adSourceConfig(path=str(source)), Her2stSourceConfig(path=str(her2st)))
    for _ in range(6):
        events: list[dict[str, Any]] = []
        out = folder / "out"
        try:
            manifest = build_dataset(IngestConfig(sources=sources, patch=PATCH), str(out), on_event=events.append)
        except InputError as error:
            assert not (out / "manifest.json").exists()
            _assign(error, found, out)
            _take_away(found, source, her2st)
            continue
        read = {entry.name: entry for entry in manifest.sections}
        assert {"good", "A1"} <= read.keys()
        for number, outcome in enumerate(found):
            entry = read.get(f"c{number}") or read.get(f"B{number}")
            if entry is not None:
                outcome.read, outcome.said = True, [*entry.warnings, *entry.dropped, *manifest.warnings]
        return found
    raise AssertionError("the ingest is refused again and again")


def _lay_out(own: Path, number: int, source: Path, her2st: Path) -> None:
    """Bring the files of a case into the cohort, under the case's number."""
    for path in own.glob("*bad.*"):
        path.rename(source / path.name.replace("bad", f"c{number}"))
    for path in sorted((own / "her2st").rglob("*"), key=lambda path: -len(path.parts)):
        if path.name.startswith("B1"):
            path.rename(path.with_name(f"B{number}{path.name[2:]}"))
    for path in sorted((own / "her2st").rglob("*")):
        to = her2st / path.relative_to(own / "her2st")
        if (path.is_dir() and not path.is_symlink() and not path.name.startswith("B")) or path.name == "B":
            to.mkdir(parents=True, exist_ok=True)
        elif os.path.lexists(path):
            to.parent.mkdir(parents=True, exist_ok=True)
            path.rename(to)


def _assign(error: InputError, found: list[Outcome], out: Path) -> None:
    for problem in error.problems:
        numbers = {int(number) for number in re.findall(r"(?<=[/_. ])[cB](\d+)(?=[._:/ ]|$)", f"{problem.place} ")}
        assert len(numbers) == 1, f"of no case: {problem}"
        outcome = found[numbers.pop()]
        outcome.problems.append((problem.place, problem.what, problem.remedy))
    for number, outcome in enumerate(found):
        if outcome.problems:
            outcome.left = [
                str(path) for name in (f"c{number}", f"B{number}") for path in out.glob(f"spots/*/{name}/*")
            ]


def _take_away(found: list[Outcome], source: Path, her2st: Path) -> None:
    for number, outcome in enumerate(found):
        for path in [*source.glob(f"*c{number}.*"), *her2st.glob(f"data/*/B{number}[._]*")] if outcome.problems else ():
            path.rename(source.parent / f"gone-{path.parent.name}-{path.name}")
        for path in (
            [*her2st.glob(f"data/ST-pat/lbl/B{number}_*"), *her2st.glob(f"data/ST-imgs/B/B{number}")]
            if outcome.problems
            else ()
        ):
            path.rename(source.parent / f"gone-{path.parent.name}-{path.name}")


def run_apart(cases: Sequence[Case], folder: Path) -> list[Outcome]:
    """`run_cases` in a process of its own, with an end to its memory and time."""
    order = [sys.executable, "-m", "tests.support.careless_cases", str(folder)]
    ran = subprocess.run(order, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    return [Outcome(**tree) for tree in json.loads(ran.stdout.splitlines()[-1])]


def apart(cases: Sequence[Case], folder: Path) -> None:
    """What `run_apart` runs there."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    print(json.dumps([asdict(outcome) for outcome in run_cases(cases, folder)]))


@cache
def good_h5ad() -> bytes:
    """A good file of one section, which obs does not name."""
    path = Path(mkdtemp()) / "good.h5ad"
    data: Any = make_h5ad("bad", "bad")
    data.obs = data.obs.drop(columns="section")
    data.write_h5ad(path)
    content = path.read_bytes()
    path.unlink()
    path.parent.rmdir()
    return content


def write_good(folder: Path) -> Path:
    """The good file as bad.h5ad, unless it stands there."""
    path = folder / "bad.h5ad"
    if not path.exists():
        path.write_bytes(good_h5ad())
    return path


# Mutations of an .h5ad file.


def h5(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """The good file, changed through h5py."""

    def spoil(folder: Path) -> None:
        with h5py.File(write_good(folder), "r+") as file:
            change(file)

    return spoil


def put(key: str, value: Any, **options: Any) -> Callable[[Path], None]:
    """The good file with another dataset at `key`; None removes what is there."""
    return h5(lambda file: _put(file, key, value, **options))


def _put(file: Any, key: str, value: Any, **options: Any) -> None:
    attrs = dict(file[key].attrs) if key in file else {}
    if key in file:
        del file[key]
    if value is None:
        return
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
        options["dtype"] = TEXT
    made = file.create_dataset(key, data=value, **options)
    for name, attr in attrs.items():
        made.attrs[name] = attr


def declared(key: str, shape: tuple[int, ...], dtype: str = "f4") -> Callable[[Path], None]:
    """The good file with a dataset at `key` that declares a shape and holds nothing."""

    def change(file: Any) -> None:
        attrs = dict(file[key].attrs) if key in file and isinstance(file[key], h5py.Dataset) else {}
        if key in file:
            del file[key]
        chunks = tuple(min(side, 100) for side in shape)
        made = file.create_dataset(key, shape=shape, chunks=chunks, dtype=TEXT if dtype == "text" else dtype)
        attrs = attrs or {"encoding-type": "array", "encoding-version": "0.2.0"}
        for name, attr in attrs.items():
            made.attrs[name] = attr

    return h5(change)


def edit(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """The good file with a changed array at `key`."""
    return h5(lambda file: _put(file, key, change(file[key][()])))


def at(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.result_type(array.dtype, type(value))) if isinstance(value, float) else array.copy()
        array[index] = value
        return array

    return change


def attr(key: str, name: str, value: Any) -> Callable[[Path], None]:
    """The good file with another attribute at `key`; None removes it."""

    def change(file: Any) -> None:
        file[key].attrs.pop(name, None) if value is None else file[key].attrs.__setitem__(name, value)

    return h5(change)


def dense(value: np.ndarray) -> Callable[[Path], None]:
    """The good file with a dense X."""

    def change(file: Any) -> None:
        del file["X"]
        made = file.create_dataset("X", data=value)
        made.attrs["encoding-type"], made.attrs["encoding-version"] = "array", "0.2.0"

    return h5(change)


def link(key: str, to: Any) -> Callable[[Path], None]:
    """The good file with a link at `key`."""

    def change(file: Any) -> None:
        if key in file:
            del file[key]
        file[key] = to

    return h5(change)


def external(key: str, there: str) -> Callable[[Path], None]:
    """The good file with a link at `key` to a FIFO beside it."""

    def spoil(folder: Path) -> None:
        os.mkfifo(folder / "pipe")
        link(key, h5py.ExternalLink(str(folder / "pipe"), there))(folder)

    return spoil


def outside(key: str) -> Callable[[Path], None]:
    """The good file with a dataset whose bytes stand in a device."""

    def change(file: Any) -> None:
        attrs, shape = dict(file[key].attrs), file[key].shape
        del file[key]
        made = file.create_dataset(key, shape, dtype="i4", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])
        for name, value in attrs.items():
            made.attrs[name] = value

    return h5(change)


def data_frame(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """The good file, changed as AnnData."""

    def spoil(folder: Path) -> None:
        data: Any = make_h5ad("bad", "bad")
        data.obs = data.obs.drop(columns="section")
        made = change(data)
        (made if made is not None and hasattr(made, "write_h5ad") else data).write_h5ad(folder / "bad.h5ad")

    return spoil


def scale(key: str, value: Any) -> Callable[[Path], None]:
    return put(f"uns/spatial/bad/{key}", value)


def group_at(key: str) -> Callable[[Path], None]:
    def change(file: Any) -> None:
        if key in file:
            del file[key]
        file.create_group(key)

    return h5(change)


# Mutations of whole files.


def special(name: str, how: str) -> Callable[[Path], None]:
    """A FIFO, socket, folder, device or dead link in the place of a file."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        match how:
            case "fifo":
                os.mkfifo(path)
            case "socket":
                here = os.getcwd()
                os.chdir(folder)  # a socket's path may have 108 bytes
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(name)
                os.chdir(here)
            case "folder":
                path.mkdir()
            case "link":
                path.symlink_to(folder / "nowhere")
            case device:
                path.symlink_to(device)

    return spoil


def bytes_at(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content() if callable(content) else content)

    return spoil


def cut(share: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = good_h5ad()
        (folder / "bad.h5ad").write_bytes(content[: int(len(content) * share)])

    return spoil


def both(*spoils: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


# Pictures.


def beside(spoil: Callable[[Path], None]) -> Callable[[Path], None]:
    """A good file without a picture of its own, and a bad one beside it: bad.png."""
    return both(put("uns/spatial/bad/images", None), put("uns/spatial/bad/scalefactors", None), spoil)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png_declaring(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def tiff_declaring(width: int, height: int, next_page: int = 0) -> bytes:
    """A TIFF of a few bytes whose only strip is said to hold a picture of a size."""
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 16),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags))
    return head + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", next_page) + bytes(64)


def bad_png(content: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    return beside(bytes_at("bad.png", content))


def garbled(content: bytes, start: float = 0.3, stop: float = 0.9) -> bytes:
    garbage = np.random.default_rng(0).integers(0, 255, len(content), dtype=np.uint8).tobytes()
    first, last = int(len(content) * start), int(len(content) * stop)
    return content[:first] + garbage[first:last] + content[last:]


# HER2ST.


def her2st(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A good section B1 in HER2ST's layout, with labels and picture, changed."""

    def spoil(folder: Path) -> None:
        write_her2st(folder / "her2st", "B1", labels=True, image=True)
        change(folder / "her2st")

    return spoil


COUNTS, SPOTS = "data/ST-cnts/B1.tsv.gz", "data/ST-spotfiles/B1_selection.tsv"
LABELS = "data/ST-pat/lbl/B1_labeled_coordinates.tsv"
HE = "data/ST-imgs/B/B1/HE.jpg"


def table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        index = 0 if name == COUNTS else None
        read = pd.read_csv(folder / name, sep="\t", index_col=index)
        changed = change(read)
        with gzip.open(folder / name, "wt") if name == COUNTS else (folder / name).open("w") as file:
            changed.to_csv(file, sep="\t", index=index == 0)

    return her2st(spoil)


def raw(name: str, content: bytes) -> Callable[[Path], None]:
    return her2st(lambda folder: (folder / name).write_bytes(content))


def her2st_special(name: str, how: str) -> Callable[[Path], None]:
    return her2st(lambda folder: special(Path(name).name, how)((folder / name).parent))
