"""Decoding of Parquet columns to arrays: patches and sparse counts, without a Python loop over genes.

Legend: N spots, G genes of the cohort, P pixels of a patch's side.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from PIL import Image
from scipy import sparse

from stray.cohort.parquet import first_line
from stray.errors import InputError, Problem

Column: TypeAlias = pa.Array | pa.ChunkedArray

_AGAIN = "the file is damaged: `stray inspect DATASET --verify` lists such files; ingest again"


def decode_patches(column: Column, size_px: int, place: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Return encoded pictures (binary column, N rows) as uint8 (N, P, P, 3); `place` names the file and row group.

    `rows` are the rows of the row group that the column was taken from, for messages; None: all of it.

    Raises InputError that names the row whose picture is absent, broken or of another size.
    """
    patches_NPPC = np.empty((len(column), size_px, size_px, 3), dtype=np.uint8)
    for number, encoded in enumerate(column.to_pylist()):
        row = number if rows is None else int(rows[number])
        if encoded is None:
            what, remedy = "the spot has no patch", "choose spots of sections that have pictures"
            raise InputError(Problem(f"{place}, row {row}", what, remedy))
        patches_NPPC[number] = decode_patch(encoded, size_px, lambda row=row: f"{place}, row {row}")
    return patches_NPPC


def decode_patch(encoded: bytes | memoryview, size_px: int, place: Callable[[], str]) -> np.ndarray:
    """Return one encoded picture as uint8 (P, P, 3); `place` tells its row, and is asked only for a message.

    Raises InputError that names the row where the picture is broken or of another size.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels_PPC = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(Problem(place(), f"the patch cannot be decoded: {first_line(error)}", _AGAIN)) from error
    if pixels_PPC.shape != (size_px, size_px, 3):
        found = f"{pixels_PPC.shape[1]} x {pixels_PPC.shape[0]}"
        raise InputError(Problem(place(), f"the patch has {found} pixels, the manifest says {size_px}", _AGAIN))
    return pixels_PPC


def counts_csr(gene_index: Column, gene_count: Column, n_genes: int) -> sparse.csr_matrix:
    """List columns (N rows) as raw counts (N, G) uint32. A null list becomes an empty row.

    Raises ValueError when the two columns' lists differ in length or an index lies outside 0..G-1.
    """
    index = _one_list_array(gene_index)
    count = _one_list_array(gene_count)
    # `flatten` honours offsets and skips what lies under nulls, which the raw `values` buffer does not.
    lengths = np.asarray(index.value_lengths().fill_null(0))
    if not np.array_equal(lengths, np.asarray(count.value_lengths().fill_null(0))):
        raise ValueError("gene_index and gene_count hold lists of different lengths")
    indices = index.flatten().to_numpy(zero_copy_only=False)
    if indices.size and (indices.min() < 0 or indices.max() >= n_genes):
        raise ValueError(f"gene_index goes from {indices.min()} to {indices.max()}, there are {n_genes} genes")
    indptr = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    data = count.flatten().to_numpy(zero_copy_only=False)
    matrix = sparse.csr_matrix((data, indices, indptr), shape=(len(lengths), n_genes), copy=False)
    matrix.has_sorted_indices = True  # the writer sorts each spot's genes
    return matrix


def _one_list_array(column: Column) -> pa.ListArray:
    if isinstance(column, pa.ChunkedArray):
        combined = column.combine_chunks()
        # Depending on the version an empty or single-chunk column stays chunked.
        column = pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
    return column
