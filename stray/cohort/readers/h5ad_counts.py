"""Count matrices of .h5ad files: which one holds raw counts, checked before it is read, a section's rows at a time.

Legend: N spots of the file, S spots of a section, G genes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from stray.cohort.text import shown
from stray.errors import InputError, Problem

_PLACES = (("layers/counts", "var"), ("layers/raw_counts", "var"), ("X", "var"), ("raw/X", "raw/var"))
"""Places of raw counts, in the order of preference, with the table of their genes."""
_SAMPLE = 200_000
"""Number of values sampled to distinguish counts from normalised values."""
_VALUES = 2**22
"""Number of matrix values read at once: 50 MB with their indices."""
_REMEDY = "write the file again with a current anndata: adata.write_h5ad(...)"


@dataclass(frozen=True)
class Counts:
    """A matrix of a file."""

    key: str
    var: str
    """Key of the table of its genes."""
    note: str = ""
    """Note on the choice for the user; empty where there was none."""


@dataclass(frozen=True)
class _Layout:
    """Storage of a matrix, once its sizes have been compared."""

    stored: Any
    indptr: np.ndarray | None
    """Start of each row (each column, of a csc matrix), int64; None for a dense matrix."""
    by_column: bool = False


def find_counts(file: h5py.File) -> Counts | None:
    """Return the file's raw counts: the first matrix that holds whole numbers, else the first; None without any.

    Raises InputError where a matrix has no table of its genes.
    """
    stored = [Counts(key, var) for key, var in _PLACES if key in file]
    there = [counts for counts in stored if counts.var in file]
    if stored and not there:
        what = f"is missing: {stored[0].key} has no gene names"
        raise InputError(Problem(f"{file.filename}: {stored[0].var}", what, _REMEDY))
    for counts in there:
        if _is_whole(file[counts.key]):
            note = ""
            if counts is not there[0]:
                note = f"counts are read from {counts.key}: {there[0].key} does not hold whole numbers"
            elif _values(file[counts.key]).dtype == bool:
                note = f"{counts.key} holds booleans: true and false are read as counts of 1 and 0"
            return replace(counts, note=note)
    return there[0] if there else None


def check_layout(file: h5py.File, key: str, shape: tuple[int, int]) -> _Layout:
    """Validate the declared sizes of the matrix at `key` against `shape` (N, G), before allocating anything by them.

    A matrix that is not what it says ends the process in compiled code. Raises InputError.
    """
    place = f"{file.filename}: {key}"
    stored: Any = file[key]
    if isinstance(stored, h5py.Dataset):
        _check(tuple(stored.shape or ()) == shape, place, f"has the shape {stored.shape}, obs and var {shape}")
        _check(stored.dtype.kind in "buif", place, f"holds {stored.dtype}, not numbers")
        return _Layout(stored, None)
    for name, kinds in (("data", "buif"), ("indices", "iu"), ("indptr", "iu")):
        _check(name in stored, place, f"is no matrix: it has no {name}")
        member = stored[name]
        listed = isinstance(member, h5py.Dataset) and member.ndim == 1 and member.dtype.kind in kinds
        _check(listed, place, f"{name} is no list of {'numbers' if name == 'data' else 'whole numbers'}")
    said = np.ravel(stored.attrs.get("shape", stored.attrs.get("h5sparse_shape", ())))
    same = said.shape == (2,) and said.dtype.kind in "iu" and tuple(said.tolist()) == shape
    _check(same, place, f"says its shape is {shown(said.tolist())}, obs and var say {shape}")
    form = _text(stored.attrs.get("encoding-type", stored.attrs.get("h5sparse_format", "")))
    _check(form[:3] in ("csr", "csc"), place, f"is stored as {shown(form) or 'something unknown'}, not as csr or csc")
    by_column = form[:3] == "csc"
    major, minor = shape[::-1] if by_column else shape
    lengths = [stored[name].shape[0] for name in ("indptr", "data", "indices")]
    _check(lengths[0] == major + 1, place, f"indptr has {lengths[0]} entries, not {major + 1}")
    _check(lengths[1] == lengths[2], place, f"data and indices differ in length ({lengths[1]}, {lengths[2]})")
    indptr = stored["indptr"][:]
    bounded = bool((indptr <= lengths[1]).all())  # check before unsigned indices are cast to signed ones
    indptr = indptr.astype(np.int64)
    steps = np.diff(indptr)
    rising = bounded and bool(indptr[0] == 0 and indptr[-1] == lengths[1] and (steps >= 0).all())
    _check(rising, place, "indptr does not rise from 0 to the number of values")
    # This bounds the size of all reads by obs and var, whatever the file declares.
    _check(
        bool((steps <= minor).all()),
        place,
        f"indptr gives a {'gene' if by_column else 'spot'} more than {minor} values",
    )
    return _Layout(stored, indptr, by_column)


def read_counts(file: h5py.File, key: str, rows: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Return the rows (S,) of the matrix at `key` of a file with `shape` (N, G), as (S, G).

    Reads a part of the matrix at a time and keeps the section's values of it. Raises InputError.
    """
    place = f"{file.filename}: {key}"
    layout = check_layout(file, key, shape)
    row_of = np.full(shape[0], -1, dtype=np.int64)
    row_of[rows] = np.arange(len(rows))
    if layout.indptr is None:
        parts = _dense_parts(layout.stored, row_of, shape)
    else:
        parts = _sparse_parts(layout, layout.indptr, row_of, shape, place)
    found = list(parts)
    empty = np.zeros(0, dtype=np.int64)
    row, column, values = (
        (np.concatenate(column) for column in zip(*found, strict=True)) if found else (empty, empty, empty)
    )
    counts = sparse.csr_matrix((values, (row, column)), shape=(len(rows), shape[1]))
    counts.sort_indices()
    return counts


Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row of the section, column, and value, of some entries."""


def _dense_parts(stored: h5py.Dataset, row_of: np.ndarray, shape: tuple[int, int]) -> Iterator[Part]:
    step = max(1, _VALUES // max(1, shape[1]))
    for start in range(0, shape[0], step):
        own = np.flatnonzero(row_of[start : start + step] >= 0)
        if len(own):
            block = _numbers(stored[start : start + step])[own]
            row, column = np.nonzero(block)
            yield row_of[start + own[row]], column, block[row, column]


def _sparse_parts(
    layout: _Layout, indptr: np.ndarray, row_of: np.ndarray, shape: tuple[int, int], place: str
) -> Iterator[Part]:
    """Yield the entries of the section, of as many rows (columns) at a time as `_VALUES` hold."""
    minor = shape[0] if layout.by_column else shape[1]
    start = 0
    while start < len(indptr) - 1:
        stop = max(start + 1, int(np.searchsorted(indptr, indptr[start] + _VALUES, side="right")) - 1)
        part, lines = slice(int(indptr[start]), int(indptr[stop])), np.arange(start, stop)
        if part.stop > part.start and (layout.by_column or (row_of[start:stop] >= 0).any()):
            index = layout.stored["indices"][part]
            inside = bool(index.min() >= 0 and index.max() < minor)
            _check(inside, place, f"indices leave the range from 0 to {minor - 1}")
            index = index.astype(np.int64)
            line = np.repeat(lines, np.diff(indptr[start : stop + 1]))
            row, column = (row_of[index], line) if layout.by_column else (row_of[line], index)
            own = row >= 0
            if own.any():
                yield row[own], column[own], _numbers(layout.stored["data"][part])[own]
        start = stop


def _numbers(values: np.ndarray) -> np.ndarray:
    """Return values in a dtype that scipy accepts."""
    if values.dtype == np.float16 or values.dtype.kind == "b":
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _values(stored: Any) -> Any:
    return stored.get("data") if isinstance(stored, h5py.Group) else stored


def _is_whole(stored: Any) -> bool:
    sparse_one = isinstance(stored, h5py.Group)
    values = _values(stored)
    if (
        not isinstance(values, h5py.Dataset)
        or values.dtype.kind not in "buif"
        or values.ndim != (1 if sparse_one else 2)
    ):
        return False
    if values.dtype.kind in "bui":
        return True
    # For a dense matrix, read whole rows until the sample is full: its declared sizes may be wrong.
    most = (_SAMPLE,) if sparse_one else (max(1, _SAMPLE // max(1, values.shape[1])), _SAMPLE)
    sample = np.asarray(values[tuple(slice(n) for n in most)], dtype=np.float64)
    return bool((sample == np.floor(sample)).all() and (sample >= 0).all())


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _check(true: bool, place: str, what: str) -> None:
    if not true:
        raise InputError(Problem(place, what, _REMEDY))
