"""Reading the paired dataset in pieces: a row group becomes a block of arrays, with the global rows that it holds.

The same functions serve Ray Data's read tasks and a process that reads without Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from stray.cohort.decode import counts_csr, decode_patches
from stray.cohort.parquet import read_row_groups
from stray.cohort.schema import ROW_GROUP_SPOTS
from stray.columns import GENE_COUNT, GENE_INDEX, IMAGE


@dataclass(frozen=True)
class Fragment:
    """One Parquet file of the dataset."""

    path: str
    section: str
    start: int
    """Global row of its first spot."""
    n_rows: int
    n_bytes: int

    @property
    def n_groups(self) -> int:
        """Row groups of the file."""
        return -(-self.n_rows // ROW_GROUP_SPOTS)

    @property
    def group_starts(self) -> range:
        """Global row of the first spot of each row group."""
        return range(self.start, self.start + self.n_rows, ROW_GROUP_SPOTS)

    def group_name(self, group: int) -> str:
        """Return file and row group, for messages."""
        return f"{self.path}, row group {group}"

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Return columns of a row group. Raises InputError naming both where it cannot be read."""
        return read_row_groups(self.path, [group], columns)

    def pieces(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield row group, rows within it and their places in `rows`, global rows of this file in any order."""
        group_n, within_n = np.divmod(rows - self.start, ROW_GROUP_SPOTS)
        for group in np.unique(group_n):
            places = np.flatnonzero(group_n == group)
            yield int(group), within_n[places], places


@dataclass(frozen=True)
class PatchBlock:
    """Decoded patches (n, px, px, 3) uint8 of the global `rows` (n,)."""

    rows: np.ndarray
    patches: np.ndarray


@dataclass(frozen=True)
class EncodedBlock:
    """Encoded patches (n,) of the global `rows` (n,), as stored in the file."""

    rows: np.ndarray
    images: pa.LargeBinaryArray


@dataclass(frozen=True)
class CompactRows:
    """The arrays of a CSR matrix, as scipy names them, with genes in any integer type: scipy would copy to int32."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    shape: tuple[int, int]

    def matrix(self) -> sp.csr_matrix:
        """Return the rows as a matrix of scipy."""
        return sp.csr_matrix((self.data, self.indices.astype(np.int32), self.indptr), shape=self.shape)


@dataclass(frozen=True)
class CountBlock:
    """Counts over a panel (n, G) of the global `rows` (n,), sparse, in the smallest unsigned type that holds them."""

    rows: np.ndarray
    counts: sp.csr_matrix | CompactRows
    """`CompactRows` if they are in shared memory."""

    @property
    def n_genes(self) -> int:
        """Genes of the panel."""
        return int(self.counts.shape[1])  # pyright: ignore[reportOptionalSubscript]

    def matrix(self) -> sp.csr_matrix:
        """Return the counts as a matrix of scipy."""
        return self.counts.matrix() if isinstance(self.counts, CompactRows) else self.counts


def read_patches(fragment: Fragment, size_px: int) -> Iterator[PatchBlock]:
    """Yield one block per row group, of the spots that have a picture. Raises InputError naming the file and the row
    group.
    """
    for group in range(fragment.n_groups):
        block = read_group(fragment, group)
        if len(block.rows):
            within = block.rows - fragment.group_starts[group]
            yield PatchBlock(block.rows, decode_patches(block.images, size_px, fragment.group_name(group), within))


def read_encoded(fragment: Fragment) -> Iterator[EncodedBlock]:
    """Yield the blocks of `read_patches` without decoding their pictures."""
    for group in range(fragment.n_groups):
        block = read_group(fragment, group)
        if len(block.rows):
            yield block


def read_group(fragment: Fragment, group: int) -> EncodedBlock:
    """Return the pictures of one row group, of the spots that have one."""
    column = fragment.read(group, [IMAGE]).column(IMAGE)
    # Offsets of 64 bits: a row group of large pictures may pass 2 GiB.
    images = pa.concat_arrays([chunk.cast(pa.large_binary()) for chunk in column.chunks])
    present = np.flatnonzero(images.is_valid().to_numpy(zero_copy_only=False))
    rows = fragment.group_starts[group] + present
    return EncodedBlock(rows, images if len(present) == len(images) else images.take(pa.array(present)))


def place_of(files: Sequence[Fragment], row: int) -> str:
    """Return file, row group and row within it of a global row, for messages."""
    fragment = files[int(np.searchsorted([file.start for file in files], row, side="right")) - 1]
    group, within, _ = next(fragment.pieces(np.array([row])))
    return f"{fragment.group_name(group)}, row {within[0]}"


def read_counts(fragment: Fragment, panel_index: np.ndarray, n_genes: int) -> Iterator[CountBlock]:
    """Yield one block per row group, of the spots that have counts, over the genes at `panel_index` of the gene
    table.
    """
    for group, start in enumerate(fragment.group_starts):
        table = fragment.read(group, [GENE_INDEX, GENE_COUNT])
        index = table.column(GENE_INDEX).combine_chunks()
        present = np.flatnonzero(index.is_valid().to_numpy(zero_copy_only=False))
        if len(present):
            keep = pa.array(present)
            count = table.column(GENE_COUNT).combine_chunks()
            counts = counts_csr(index.take(keep), count.take(keep), n_genes)[:, panel_index]
            yield CountBlock(start + present, compact(counts))


def compact(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Return the same counts as uint16 where they fit, else uint32."""
    largest = counts.data.max(initial=0)
    return sp.csr_matrix(
        (counts.data.astype(np.uint16 if largest < 2**16 else np.uint32), counts.indices, counts.indptr),
        shape=counts.shape,
    )
