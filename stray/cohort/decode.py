"""From Parquet columns to arrays: patches and sparse counts, without a Python loop over genes.

Legend: N spots, G genes of the cohort, P pixels of a patch's side.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy import sparse

from stray import storage
from stray.errors import InputError, Problem

Column: TypeAlias = pa.Array | pa.ChunkedArray

_AGAIN = "the file is damaged: `stray inspect DATASET --verify` lists such files; ingest again"


def read_row_groups(path: str, row_groups: Sequence[int] | None, columns: Sequence[str]) -> pa.Table:
    """`columns` of the given row groups (None: all) of the Parquet file at `path` (path or URI), in that order.

    Raises InputError that names the file and the row group which cannot be read.
    """
    try:
        filesystem, inner = storage.resolve(path)
        file = pq.ParquetFile(inner, filesystem=filesystem)
    except (OSError, pa.ArrowException) as error:
        raise InputError(Problem(path, f"cannot be read as Parquet: {_first_line(error)}", _AGAIN)) from error
    with file:
        tables = []
        for group in range(file.num_row_groups) if row_groups is None else row_groups:
            try:
                tables.append(file.read_row_group(group, columns=list(columns), use_threads=False))
            except (OSError, pa.ArrowException, KeyError) as error:
                place = f"{path}, row group {group}"
                raise InputError(Problem(place, f"cannot be read: {_first_line(error)}", _AGAIN)) from error
        if not tables:
            return file.schema_arrow.empty_table().select(list(columns))
    return pa.concat_tables(tables)


def column_bytes(path: str, column: str) -> int:
    """Bytes of a column of the Parquet file at `path` (path or URI) once it is decompressed, by the file's footer.

    Raises InputError that names the file when it cannot be read.
    """
    try:
        filesystem, inner = storage.resolve(path)
        with pq.ParquetFile(inner, filesystem=filesystem) as file:
            leaves = [file.schema.column(i).path for i in range(len(file.schema))]
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
            return sum(group.column(leaves.index(column)).total_uncompressed_size for group in groups)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(Problem(path, f"cannot be read as Parquet: {_first_line(error)}", _AGAIN)) from error


def decode_patches(column: Column, size_px: int, place: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Encoded pictures (binary column, N rows) as uint8 (N, P, P, 3); `place` names the file and row group.

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
    """One encoded picture as uint8 (P, P, 3); `place` tells its row, and is asked only for a message.

    Raises InputError that names the row where the picture is broken or of another size.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels_PPC = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(Problem(place(), f"the patch cannot be decoded: {_first_line(error)}", _AGAIN)) from error
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
