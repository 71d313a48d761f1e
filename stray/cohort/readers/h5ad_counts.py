"""Count matrices of .h5ad files: which one holds raw counts, checked before it is read, a section's rows at a time.

Legend: N spots of the file, S spots of a section, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from stray.errors import InputError, Problem

_PLACES = (("layers/counts", "var"), ("layers/raw_counts", "var"), ("X", "var"), ("raw/X", "raw/var"))
"""Places of raw counts, in the order of preference, with the table of their genes."""
_SAMPLE = 200_000
"""Values that are looked at to tell counts from normalised values."""
_ROWS = 4096
"""Rows of a dense matrix that are read at once."""
_REMEDY = "write the file again with a current anndata: adata.write_h5ad(...)"


@dataclass(frozen=True)
class Counts:
    """A matrix of a file."""

    key: str
    var: str
    """Key of the table of its genes."""
    note: str = ""
    """Note on the choice for the user; empty where there was none."""


def find_counts(file: h5py.File) -> Counts | None:
    """Return the file's raw counts: the first matrix that holds whole numbers, else the first; None without any."""
    there = [Counts(key, var) for key, var in _PLACES if key in file and var in file]
    for counts in there:
        if _is_whole(file[counts.key]):
            if counts is there[0]:
                return counts
            return Counts(
                counts.key, counts.var, f"counts are read from {counts.key}: {there[0].key} is not whole numbers"
            )
    return there[0] if there else None


def read_counts(file: h5py.File, key: str, rows: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Return the rows (S,) of the matrix at `key` of a file with `shape` (N, G), as (S, G).

    Sizes and indices are compared with `shape` before anything is allocated, because a matrix that is not what it
    says ends the process in compiled code. Raises InputError.
    """
    place = f"{file.filename}: {key}"
    stored: Any = file[key]
    if isinstance(stored, h5py.Dataset):
        _check(tuple(stored.shape) == shape, place, f"has the shape {tuple(stored.shape)}, obs and var {shape}")
        _check(stored.dtype.kind in "buif", place, f"holds {stored.dtype}, no numbers")
        span = range(int(rows.min()), int(rows.max()) + 1)
        parts = []
        for start in range(span.start, span.stop, _ROWS):
            stop = min(start + _ROWS, span.stop)
            own = rows[(rows >= start) & (rows < stop)]
            if len(own):
                parts.append(sparse.csr_matrix(_numbers(stored[start:stop])[own - start]))
        order = np.argsort(rows, kind="stable")
        stacked = sparse.csr_matrix(sparse.vstack(parts, format="csr"))
        return sparse.csr_matrix(stacked[np.argsort(order, kind="stable")])
    _check(all(name in stored for name in ("data", "indices", "indptr")), place, "is no matrix")
    said = stored.attrs.get("shape", stored.attrs.get("h5sparse_shape"))
    _check(
        said is not None and tuple(map(int, said)) == shape, place, f"says its shape is {said}, obs and var say {shape}"
    )
    form = _text(stored.attrs.get("encoding-type", stored.attrs.get("h5sparse_format", "")))
    _check(form[:3] in ("csr", "csc"), place, f"is stored as {form or 'something unknown'}, not as csr or csc")
    major, minor = shape if form[:3] == "csr" else shape[::-1]
    data, indices = stored["data"], stored["indices"]
    for name in ("data", "indices", "indptr"):
        what = f"{name} is no list of numbers"
        _check(stored[name].ndim == 1 and stored[name].dtype.kind in "buif", place, what)
    _check(
        stored["indptr"].shape[0] == major + 1,
        place,
        f"indptr has {stored['indptr'].shape[0]} entries, not {major + 1}",
    )
    _check(
        data.shape == indices.shape, place, f"data and indices differ in length ({data.shape[0]}, {indices.shape[0]})"
    )
    indptr = stored["indptr"][:].astype(np.int64)
    rising = bool(indptr[0] == 0 and indptr[-1] == data.shape[0] and (np.diff(indptr) >= 0).all())
    _check(rising, place, "indptr does not rise from 0 to the number of values")
    first, last = (int(rows.min()), int(rows.max()) + 1) if form[:3] == "csr" else (0, major)
    part = slice(int(indptr[first]), int(indptr[last]))
    index = indices[part].astype(np.int64)
    inside = bool(index.size == 0 or (index.min() >= 0 and index.max() < minor))
    _check(inside, place, f"indices leave the range from 0 to {minor - 1}")
    triple = (_numbers(data[part]), index, indptr[first : last + 1] - indptr[first])
    if form[:3] == "csr":
        return sparse.csr_matrix(sparse.csr_matrix(triple, shape=(last - first, minor))[rows - first])
    return sparse.csr_matrix(sparse.csc_matrix(triple, shape=shape).tocsr()[rows])


def _numbers(values: np.ndarray) -> np.ndarray:
    """Return values of a kind that scipy takes."""
    if values.dtype == np.float16 or values.dtype.kind == "b":
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _is_whole(stored: Any) -> bool:
    values = stored if isinstance(stored, h5py.Dataset) else stored.get("data")
    if not isinstance(values, h5py.Dataset) or values.dtype.kind not in "buif" or values.ndim > 2:
        return False
    if values.dtype.kind in "bui":
        return True
    per_row = max(1, int(np.prod(values.shape[1:], dtype=np.int64)))
    sample = np.asarray(values[: max(1, _SAMPLE // per_row)], dtype=np.float64)
    return bool((sample == np.floor(sample)).all() and (sample >= 0).all())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _check(true: bool, place: str, what: str) -> None:
    if not true:
        raise InputError(Problem(place, what, _REMEDY))
