"""Tables of an .h5ad file: its spots, sections and genes."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pandas as pd

from stray.cohort.genes import named_genes
from stray.cohort.readers.h5ad_counts import Counts
from stray.cohort.readers.h5ad_file import element
from stray.cohort.section import Genes, plural
from stray.cohort.text import clean, clean_column, shown
from stray.columns import SECTION_FACTS
from stray.errors import InputError, Problem

_TAKEN = (*SECTION_FACTS, "label", "in_tissue")
"""Columns of obs with a fixed meaning, which are not section columns (`source` is the reader)."""
_ON = {"1", "1.0", "true", "t", "yes", "y", "", "nan", "na", "none", "<na>"}
_OFF = {"0", "0.0", "false", "f", "no", "n"}
"""Words of `in_tissue` for spots off the tissue, in lower case; a missing value says nothing against the spot."""
_XY = "give the spots' pixel coordinates: an array of numbers, spots x 2 (x, y)"
_ARRAY_NAME = re.compile(r"(\d+)x(\d+)")


def constant_texts(obs: pd.DataFrame) -> dict[str, str]:
    """Return the text or categorical columns with one non-blank value over all spots of a section."""
    found = {}
    for name, column in obs.items():
        text = isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_string_dtype(column)
        if text and name not in _TAKEN and not column.isna().any() and column.nunique() == 1:
            value = clean(column.iloc[0])
            if value is not None:
                found[str(name)] = value
    return found


def array_position(
    obs: pd.DataFrame, spots: tuple[str, ...]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Return rows and columns on the array, and where they are known (S,): from obs, or from spot names such as 22x12
    (column x row). None where no spot has one.
    """
    if "array_row" in obs and "array_col" in obs:
        row, col = (pd.to_numeric(obs[key], errors="coerce").to_numpy(float) for key in ("array_row", "array_col"))
    else:
        matches = [_ARRAY_NAME.fullmatch(spot) for spot in spots]
        row, col = (np.array([np.nan if m is None else float(m.group(n)) for m in matches]) for n in (2, 1))
    known = np.isfinite(row) & np.isfinite(col) & (np.abs(row) < 2**31) & (np.abs(col) < 2**31)
    if not known.any():
        return None, None, known
    row, col = (np.where(known, values, 0).astype(np.int32) for values in (row, col))
    return row, col, known


def in_tissue(obs: pd.DataFrame, place: str) -> np.ndarray | None:
    """Return whether spots lie on tissue, (S,) bool; True where the value is missing. Raises InputError for other
    words.
    """
    if "in_tissue" not in obs:
        return None
    words = obs["in_tissue"].astype(object).map(lambda value: "" if pd.isna(value) else str(value).strip().lower())
    unknown = sorted({str(word) for word in words} - _ON - _OFF)
    if unknown:
        what = f"holds {', '.join(unknown[:5])}, where 1 (on tissue) or 0 (off tissue) is expected"
        raise InputError(Problem(place, what, "write 0 and 1 there, or remove the column to keep all spots"))
    return ~words.isin(list(_OFF)).to_numpy(dtype=bool)


def labels(obs: pd.DataFrame) -> np.ndarray | None:
    """Return the class of each spot, (S,) object with None where there is none; None without a column `label`."""
    if "label" not in obs:
        return None
    return clean_column(obs["label"])


def coordinates(file: h5py.File, n_spots: int) -> tuple[np.ndarray, str]:
    """Return the spots' centres in full-resolution pixels (N, 2), NaN where unknown, and a note for the user.

    Raises InputError.
    """
    key = next((key for key in ("obsm/spatial", "obsm/X_spatial") if key in file), None)
    if key is None:
        raise InputError(
            Problem(str(file.filename), 'has no obsm["spatial"]', "add the spots' pixel coordinates there")
        )
    place = f"{file.filename}: {key}"
    stored = np.asarray(element(file, key))
    if stored.ndim != 2 or stored.shape[0] != n_spots or stored.shape[1] < 2:
        raise InputError(Problem(place, f"has the shape {stored.shape}, expected ({n_spots}, 2)", _XY))
    if stored.dtype.kind not in "iufO":
        raise InputError(Problem(place, f"holds {stored.dtype}, not numbers", _XY))
    try:
        found = stored.astype(float)
    except (TypeError, ValueError) as error:
        raise InputError(Problem(place, f"does not hold numbers: {shown(error)}", _XY)) from None
    further = found.shape[1] - 2
    note = f"obsm/spatial has {found.shape[1]} columns: the first two are taken as x and y" if further else ""
    return found[:, :2], note


def genes_of(file: h5py.File, counts: Counts) -> Genes:
    """Return the genes of a matrix. Raises InputError if there are none or some have no name."""
    var = element(file, counts.var)
    place = f"{file.filename}: {counts.var}"
    if not isinstance(var, pd.DataFrame):
        remedy = "write the file again with a current anndata: adata.write_h5ad(...)"
        raise InputError(Problem(place, "is not a table as anndata 0.7 or newer writes it", remedy))
    if not len(var):
        raise InputError(Problem(place, "names no gene", f"give the genes, or remove {counts.key}: pictures alone"))
    genes = named_genes(var.index.tolist(), var)
    nameless = sum(clean(symbol) is None for symbol in genes.symbols)
    if nameless:
        raise InputError(
            Problem(place, f"has {plural(nameless, 'gene')} without a name", "name them, or leave them out")
        )
    return genes


def check_spread(xy: np.ndarray, name: str, where: str) -> None:
    """Raise InputError where all spots of a section lie in one pixel."""
    if len(xy) < 2 or np.ptp(xy, axis=0).max() >= 1:
        return
    x, y = xy[0]
    what = f"puts all {len(xy)} spots of section {name} into one pixel, at {x:.3g}, {y:.3g}"
    raise InputError(Problem(where, what, "give coordinates in pixels of the full-resolution picture"))
