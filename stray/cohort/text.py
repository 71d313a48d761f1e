"""Text that comes from files: names, classes and table cells in one spelling, and tables of any usual dialect."""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stray.errors import InputError, Problem

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "none", "null", "nil", "<na>", "nat"})
"""Spellings of a missing value, in lower case."""
UNLABELLED = frozenset({"unknown", "unlabeled", "unlabelled", "unannotated", "unassigned"})
"""Words by which software marks a spot without a label, in lower case: a label table fills such spots."""
_INTEGRAL = re.compile(r"([+-]?\d+)\.0*")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_MOST_BYTES = 1 << 30
_SHOWN = 60


def clean(value: object) -> str | None:
    """Return a value from a file as text in its one spelling; None where it is missing.

    Surrounding and repeated white space and invisible characters go, integral numbers lose their fraction (`1.0` and
    `1` are one name), and the spellings of `MISSING` are no value. Bytes are read as UTF-8.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):  # pyright: ignore[reportArgumentType, reportCallIssue]
            return None
        if isinstance(value, (float, np.floating)) and float(value).is_integer():
            value = int(value)
        value = str(value)
    text = " ".join(unicodedata.normalize("NFC", value).translate(_INVISIBLE).split())
    if text.lower() in MISSING:
        return None
    whole = _INTEGRAL.fullmatch(text)
    return whole.group(1) if whole else text


def clean_column(column: pd.Series) -> np.ndarray:
    """Return a column of values as `clean` gives them, (N,) object with None where one is missing."""
    codes, words = pd.factorize(column, use_na_sentinel=True)
    cleaned = np.array([*(clean(word) for word in words), None], dtype=object)
    return cleaned[codes]


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of names that differ only by case, punctuation or leading zeros, sorted."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        bare = re.sub(r"[\W_]+", "", name.casefold())
        groups[re.sub(r"(?<!\d)0+(?=\d)", "", bare) or name].add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def patient_warnings(patients: Iterable[str]) -> tuple[str, ...]:
    """Return a warning for each group of patients whose names look alike."""
    return tuple(
        f"the patients {' and '.join(map(repr, group))} differ only by case or punctuation: if they are one person, "
        "a fold that holds one out trains on the other; give them one name and ingest again"
        for group in look_alikes(patients)
    )


def class_warnings(classes: Iterable[str]) -> tuple[str, ...]:
    """Return a warning for each group of classes whose names look alike."""
    return tuple(
        f"the classes {' and '.join(map(repr, group))} differ only by case or punctuation and count as "
        f"{len(group)} classes: if they are one, give it one name and ingest again"
        for group in look_alikes(classes)
    )


def shown(value: object) -> str:
    """Return a value for a message: one line, clipped."""
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


@dataclass(frozen=True)
class TextTable:
    """A table read from a text file."""

    header: tuple[str, ...]
    """Names of the columns; those that were needed in lower case."""
    rows: tuple[tuple[int, dict[str, str | None]], ...]
    """Line number and cleaned cells by column of every row that is not empty."""
    problems: tuple[Problem, ...]
    """Rows that do not fit the header."""


def read_table(path: str, needed: tuple[str, ...], remedy: str) -> TextTable:
    """Read a text table in any usual dialect.

    Takes UTF-8 with or without a byte-order mark, UTF-16 and Latin-1; commas, semicolons, tabs and bars; a column of
    row names without a title, as R writes it. The columns `needed` are found in any case.

    Raises:
        InputError: The file is missing, is no table, or lacks a column. `remedy` says what it should be.
    """
    text = _decoded(path, remedy)
    first = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text), delimiter=max(",;\t|", key=first.count), skipinitialspace=True)
    rows, problems = [], []
    try:
        titles = [" ".join(name.translate(_INVISIBLE).split()) for name in next(lines, [])]
        missing = [name for name in needed if name not in map(str.lower, titles)]
        if missing:
            names = ", ".join(map(shown, titles[:8])) + (", ..." if len(titles) > 8 else "")
            what = f"lacks the columns {', '.join(missing)}; its first line reads {names or 'nothing'}"
            raise InputError(Problem(f"{path}, line 1", what, remedy))
        header = [name.lower() if name.lower() in needed else name for name in titles]
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            # R's write.table gives the column of row names no title.
            names = ["", *header] if len(cells) == len(header) + 1 else header
            if len(cells) == len(names):
                rows.append((lines.line_num, {name: clean(cell) for name, cell in zip(names, cells, strict=True)}))
            else:
                what = f"has {len(cells)} cells for {len(header)} columns"
                problems.append(Problem(f"{path}, line {lines.line_num}", what, remedy))
    except csv.Error as error:
        raise InputError(Problem(f"{path}, line {lines.line_num}", f"cannot be read: {error}", remedy)) from None
    return TextTable(tuple(header), tuple(rows), tuple(problems))


def _decoded(path: str, remedy: str) -> str:
    try:
        file = Path(path).expanduser()
        if what := irregular(file):
            raise InputError(Problem(path, f"cannot be read: it {what}", remedy))
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise InputError(Problem(path, f"has {size:,} bytes: too large for a table of names", remedy))
        data = file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path; an unknown ~user
        raise InputError(Problem(path, f"cannot be read: {error}", remedy)) from None
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise InputError(Problem(path, "is no text: it holds NUL bytes", remedy))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def irregular(path: Path) -> str:
    """Return what is at `path` instead of a regular file, for messages; empty where it is one.

    Ask before a file is opened: a FIFO is waited for without end, a device read without end.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is missing: the link leads nowhere" if os.path.islink(path) else "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISREG(mode):
        return ""
    return "is a folder" if stat.S_ISDIR(mode) else "is a device, pipe or socket"


def user_path(path: str) -> str:
    """Return a path as the user gave it, absolute. Raises InputError where it is none."""
    try:
        return str(Path(path).expanduser().resolve())
    except (OSError, RuntimeError, ValueError) as error:  # an unknown ~user, a NUL
        raise InputError(Problem(repr(path), f"is no path: {error}", "check how it is written")) from None
