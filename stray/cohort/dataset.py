"""The paired dataset as training sees it: one table of spots, and counts and patches by row.

Legend: N rows asked for, G genes of the cohort, P pixels of a patch's side. A *row* is a spot's place among all
spots of the dataset, in the order of the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import fs
from scipy import sparse

from stray import columns as c
from stray import storage
from stray.cohort.decode import counts_csr, decode_patches
from stray.cohort.fragments import Fragment
from stray.cohort.manifest import FileEntry, Manifest, file_sha256
from stray.cohort.parquet import column_names, read_row_groups
from stray.errors import InputError, Problem, raise_if_any

READERS = 16
"""Number of files read concurrently: on object storage each is a round trip."""


@dataclass(frozen=True, kw_only=True)
class SpotTable:
    """Facts about spots besides counts and pictures; parallel arrays, one entry per spot."""

    spot_id: np.ndarray
    """Unique in the cohort; object (str)."""
    patient: np.ndarray
    """object (str)."""
    section: np.ndarray
    """object (str)."""
    x_um: np.ndarray
    """Micrometres to the right in the section's frame; float64."""
    y_um: np.ndarray
    """Micrometres downwards in the section's frame; float64."""
    label: np.ndarray
    """Class name, None where the spot is not annotated; object."""
    label_source: np.ndarray
    """Source of the label, None where there is none; object."""
    total_count: np.ndarray
    """Sum of the spot's counts, 0 where it has none; int64."""
    has_image: np.ndarray
    """bool."""
    has_counts: np.ndarray
    """bool."""

    def __len__(self) -> int:
        return len(self.spot_id)

    def take(self, rows: np.ndarray | Sequence[int]) -> SpotTable:
        """Return the spots at `rows` (integers or a mask), in that order."""
        chosen = np.asarray(rows)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return SpotTable(**{column.name: getattr(self, column.name)[chosen] for column in fields(self)})


class PairedDataset:
    """A paired dataset, opened for reading. Make it with `open`; it pickles as its path and manifest."""

    def __init__(self, path: str, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str) -> PairedDataset:
        """Open the dataset at `path` (path or URI).

        Raises InputError when there is none, when it is of another contract version, and when files are missing or
        have another size than the manifest says.
        """
        dataset = cls(storage.absolute(path), Manifest.load(path))
        raise_if_any(dataset._size_problems())
        return dataset

    def require_unchanged(self) -> None:
        """Raise InputError if the dataset has been rewritten since it was opened."""
        if (found := Manifest.load(self.path).digest) != self.manifest.digest:
            what = f"was rewritten while this command read it (digest {self.manifest.digest[:12]}, now {found[:12]})"
            raise InputError(Problem(self.path, what, "run the same command again: it reads the new dataset"))

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check after the block, also on errors, that the dataset was not rewritten. Raises InputError if it was."""
        try:
            yield
        except Exception as error:
            try:
                self.require_unchanged()
            except InputError as change:
                raise change from error
            raise
        self.require_unchanged()

    def __reduce__(self) -> tuple[type[PairedDataset], tuple[str, Manifest]]:
        return type(self), (self.path, self.manifest)

    @cached_property
    def genes(self) -> pa.Table:
        """Every gene of the cohort: `index`, `symbol`, `id`, `n_sections`."""
        return read_row_groups(
            storage.join(self.path, c.GENES),
            None,
            ["index", "symbol", "id", "n_sections"],
        )

    def files(self) -> tuple[str, ...]:
        """Return the absolute paths (or URIs) of the spot files, in the order of the rows."""
        return tuple(storage.join(self.path, file.path) for file in self.manifest.files)

    def fragments(self, *, images: bool = False, counts: bool = False) -> tuple[Fragment, ...]:
        """Return the spot files in the order of the rows, or only those of sections with images or counts."""
        found, start = [], 0
        for section in self.manifest.sections:
            for file in section.files:
                if (section.has_image or not images) and (section.has_counts or not counts):
                    path = storage.join(self.path, file.path)
                    found.append(Fragment(path, section.name, start, file.rows, file.bytes))
                start += file.rows
        return tuple(found)

    def __len__(self) -> int:
        return self.manifest.n_spots

    def spots(self) -> SpotTable:
        """Return all spots, in the order of the rows. Read once and kept."""
        return self._spots

    @cached_property
    def _spots(self) -> SpotTable:
        columns = [
            c.SPOT_ID,
            c.PATIENT,
            c.SECTION,
            c.X_UM,
            c.Y_UM,
            c.LABEL,
            c.LABEL_SOURCE,
            c.TOTAL_COUNT,
        ]
        columns.append(c.TISSUE_FRACTION)
        # Plain strings, because each file has its own label dictionary.
        with ThreadPoolExecutor(READERS, thread_name_prefix="spots") as pool:
            tables = list(pool.map(lambda path: _with_plain_labels(read_row_groups(path, None, columns)), self.files()))
        table = pa.concat_tables(tables)
        return SpotTable(
            **{name: _objects(table[name]) for name in (c.SPOT_ID, c.PATIENT, c.SECTION, c.LABEL, c.LABEL_SOURCE)},
            x_um=table[c.X_UM].to_numpy(),
            y_um=table[c.Y_UM].to_numpy(),
            total_count=table[c.TOTAL_COUNT].fill_null(0).to_numpy(),
            # These columns are null exactly where the picture (the counts) is null, and are far smaller.
            has_image=table[c.TISSUE_FRACTION].is_valid().to_numpy(),
            has_counts=table[c.TOTAL_COUNT].is_valid().to_numpy(),
        )

    def spot_names(self) -> np.ndarray:
        """Return the spots' names as their sources write them, (N,) object; their ids where a file of an earlier
        version does not say. They are unique in a section, and not always in the cohort.
        """

        def names(path: str) -> np.ndarray:
            column = c.SPOT_NAME if c.SPOT_NAME in column_names(path) else c.SPOT_ID
            return _objects(read_row_groups(path, None, [column])[column])

        with ThreadPoolExecutor(READERS, thread_name_prefix="names") as pool:
            return np.concatenate([np.empty(0, dtype=object), *pool.map(names, self.files())])

    def counts(self, rows: np.ndarray | Sequence[int]) -> sparse.csr_matrix:
        """Return raw counts of all genes at `rows`, (N, G) uint32. A spot without counts is an empty row.

        Raises InputError that names the file and row group which cannot be read.
        """
        wanted = self._checked(rows)
        parts, order = [], []
        for file, group, within, where in self._pieces(wanted):
            table = file.read(group, [c.GENE_INDEX, c.GENE_COUNT])
            try:
                matrix = counts_csr(table[c.GENE_INDEX], table[c.GENE_COUNT], self.manifest.n_genes)
            except ValueError as error:
                raise InputError(Problem(file.group_name(group), str(error), "ingest again")) from None
            parts.append(matrix[within])
            order.append(where)
        if not parts:
            return sparse.csr_matrix((0, self.manifest.n_genes), dtype=np.uint32)
        stacked, places = sparse.csr_matrix(sparse.vstack(parts, format="csr")), np.concatenate(order)
        return stacked if (np.diff(places) > 0).all() else stacked[np.argsort(places, kind="stable")]

    def patches(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return patches at `rows`, uint8 (N, P, P, 3).

        Raises InputError that names the file and row group where a patch is absent or cannot be read.
        """
        wanted = self._checked(rows)
        size_px = self.manifest.patch.size_px
        patches_NPPC = np.empty((len(wanted), size_px, size_px, 3), dtype=np.uint8)
        for file, group, within, where in self._pieces(wanted):
            encoded = file.read(group, [c.IMAGE])[c.IMAGE].take(pa.array(within))
            patches_NPPC[where] = decode_patches(encoded, size_px, file.group_name(group), within)
        return patches_NPPC

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the manifest. Raises InputError that lists every file that differs."""
        problems = self._size_problems()
        damaged = {problem.place for problem in problems}
        for path, entry in self._entries():
            if path not in damaged and file_sha256(path) != entry.sha256:
                problems.append(
                    Problem(
                        path,
                        "its content differs from what was ingested (SHA-256)",
                        _RESTORE,
                    )
                )
        raise_if_any(problems)

    def _entries(self) -> Iterator[tuple[str, FileEntry]]:
        for entry in (self.manifest.genes, *self.manifest.files):
            yield storage.join(self.path, entry.path), entry

    def _size_problems(self) -> list[Problem]:
        # One listing: on object storage a request per file is a round trip per file.
        filesystem, root = storage.resolve(self.path)
        listed = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        sizes = {info.path: info.size for info in listed if info.type == fs.FileType.File}
        problems = []
        for path, entry in self._entries():
            size = sizes.get(storage.join(root, entry.path))
            if size is None:
                problems.append(Problem(path, "is missing but listed in the manifest", _RESTORE))
            elif size != entry.bytes:
                what = f"has {size} bytes, the manifest says {entry.bytes}: it was changed after the ingest"
                problems.append(Problem(path, what, _RESTORE))
        return problems

    def _checked(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.ndim != 1 or (wanted.size and (wanted.min() < 0 or wanted.max() >= len(self))):
            raise IndexError(f"rows must be a list of integers from 0 to {len(self) - 1}")
        return wanted

    def _pieces(self, wanted: np.ndarray) -> Iterator[tuple[Fragment, int, np.ndarray, np.ndarray]]:
        """Yield (file, row group, rows within it, their places in `wanted`) of everything that `wanted` touches."""
        files = self.fragments()
        file_of = np.searchsorted([file.start for file in files], wanted, side="right") - 1
        for index in np.unique(file_of):
            mine = np.flatnonzero(file_of == index)
            for group, within, places in files[index].pieces(wanted[mine]):
                yield files[index], group, within, mine[places]


_RESTORE = "restore the file, or run the ingest again: it rewrites changed files"


def _with_plain_labels(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index(c.LABEL), c.LABEL, table[c.LABEL].cast(pa.string()))


def _objects(column: pa.ChunkedArray) -> np.ndarray:
    """Return strings as an object array with None for null; equal strings are one object, of millions of spots too."""
    encoded = column.dictionary_encode().unify_dictionaries()
    words = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    objects = np.array([*words, None], dtype=object)
    places = [np.asarray(chunk.indices.fill_null(len(words))) for chunk in encoded.chunks]
    return objects[np.concatenate([np.empty(0, np.int64), *places], dtype=np.int64)]
