"""The paired dataset in the cluster: Ray Data reads it once, and decodes it where the memory allows; every worker and
trial of a node reads it there.

The blocks of a materialised dataset stay in Ray's object store; workers get references and read them as numpy views.
Ray Data's own shards would give each worker the same rows every epoch and drop remainders, so batches are drawn by
`train.plan` instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.extensions import ArrowTensorArray

from stray.cohort.dataset import PairedDataset, SpotTable
from stray.cohort.fragments import (
    CompactRows,
    CountBlock,
    EncodedBlock,
    Fragment,
    PatchBlock,
    place_of,
    read_counts,
    read_encoded,
    read_patches,
)
from stray.cohort.panel import Panel
from stray.cohort.residence import Residence, residence
from stray.columns import GENE_COUNT, GENE_INDEX, IMAGE, PATCHES, ROWS
from stray.config import RunConfig
from stray.data.blocks import Counts, Patches
from stray.data.decoding import EncodedPatches, PatchDecoder
from stray.data.source import PatchSource
from stray.data.streaming import StreamedPatches
from stray.on_ray.failures import input_error
from stray.on_ray.resources import READING_CPUS, resources
from stray.on_ray.waiting import Need, patiently, running

JOINED_BYTES = 256 * 2**20
"""Blocks of counts are joined up to this size."""


class Fragments(Datasource):
    """A read task for each Parquet file of the dataset, a block for each row group."""

    def __init__(self, files: Sequence[Fragment], read: Callable[[Fragment], Iterable[pa.Table]]) -> None:
        self._files, self._read = files, read

    def get_name(self) -> str:
        return "PairedDataset"

    def estimate_inmemory_data_size(self) -> int:
        return sum(f.n_bytes for f in self._files)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        read = self._read
        return [
            ReadTask(lambda f=f: read(f), BlockMetadata(f.n_rows, f.n_bytes, None, input_files=(f.path,)))
            for f in self._files
        ]


@dataclass(frozen=True)
class Placed:
    """References to the blocks in the object store. The driver keeps this object as long as workers need them."""

    dataset: PairedDataset
    """Dataset of the blocks: workers read names from it when something must be named."""
    patches: tuple[Any, ...] = ()
    counts: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """By the digest of the panel and the sections read."""
    residence: Residence = "decoded"
    """Residence of the patches in the blocks."""
    run: RunConfig = field(default_factory=RunConfig)
    """Settings by which workers read and decode them."""

    def with_counts(self, key: str, refs: tuple[Any, ...]) -> Placed:
        """Return the same placement with the counts of one panel added."""
        return replace(self, counts={**self.counts, key: refs})


def place_patches(dataset: PairedDataset, run: RunConfig) -> Placed:
    """Put every patch of the dataset into the object store, decoded or encoded as `cohort.residence` says; none where
    they are streamed.

    Raises InputError when that would pass the memory budget, or a file cannot be read.
    """
    kept, size_px = residence(dataset, run), dataset.manifest.patch.size_px
    if kept == "streamed":
        return Placed(dataset, residence=kept, run=run)

    def read(fragment: Fragment) -> Iterable[pa.Table]:
        if kept == "encoded":
            for block in read_encoded(fragment):
                yield pa.table({ROWS: block.rows, IMAGE: block.images})
        else:
            for block in read_patches(fragment, size_px):
                yield pa.table({ROWS: block.rows, PATCHES: ArrowTensorArray.from_numpy(block.patches)})

    return Placed(dataset, _materialise(dataset.fragments(images=True), read), residence=kept, run=run)


def place_counts(dataset: PairedDataset, panel: Panel, patients: tuple[str, ...]) -> tuple[Any, ...]:
    """Put the counts over `panel` of these patients' spots into the object store; returns the blocks' references."""
    index, n_genes = np.array(panel.index), dataset.manifest.n_genes
    wanted = {section.name for section in dataset.manifest.sections if section.patient in patients}

    def read(fragment: Fragment) -> Iterable[pa.Table]:
        for block in read_counts(fragment, index, n_genes):
            offsets = block.counts.indptr.astype(np.int64)
            # With uint16 counts a non-zero count takes 4 bytes rather than 6.
            genes = block.counts.indices.astype(np.uint16 if len(panel) <= 2**16 else np.int32)
            lists = [pa.LargeListArray.from_arrays(offsets, values) for values in (genes, block.counts.data)]
            yield pa.table({ROWS: block.rows, GENE_INDEX: lists[0], GENE_COUNT: lists[1]})

    files = [f for f in dataset.fragments(counts=True) if f.section in wanted]
    refs = list(_materialise(files, read))
    return patiently(lambda: _joined(refs), Need("joining counts", {"CPU": READING_CPUS}))


def _materialise(files: Sequence[Fragment], read: Callable[[Fragment], Iterable[pa.Table]]) -> tuple[Any, ...]:
    if not files:
        return ()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False

    def counted(fragment: Fragment) -> Iterable[pa.Table]:
        with running():
            yield from read(fragment)

    lazy = ray.data.read_datasource(
        Fragments(files, counted),
        override_num_blocks=len(files),
        # As many at a time as the cluster has CPUs, though each requests little.
        concurrency=max(1, min(math.ceil(resources().cpus), len(files))),
        num_cpus=READING_CPUS,
    )
    try:
        placed = patiently(lazy.materialize, Need("reading the dataset", {"CPU": READING_CPUS}))
    except Exception as error:
        raise input_error(error) or error from None
    return tuple(ref for bundle in placed.iter_internal_ref_bundles() for ref in bundle.block_refs)


def _joined(refs: list[Any]) -> tuple[Any, ...]:
    """Return the same rows in fewer blocks: a batch of spots touches every block, and each costs the step a little.

    One group after the other, and `refs` is emptied on the way: the counts must not lie in the store twice.
    """
    sizes, joined = ray.get([_size.remote(ref) for ref in refs]), []
    while refs:
        count, room = 1, JOINED_BYTES - sizes[0]
        while count < len(refs) and sizes[count] <= room:
            room -= sizes[count]
            count += 1
        made = refs[0] if count == 1 else _join.remote(*refs[:count])
        del refs[:count], sizes[:count]
        ray.wait([made], fetch_local=False)
        joined.append(made)
    return tuple(joined)


@ray.remote(num_cpus=READING_CPUS)
def _size(table: pa.Table) -> int:
    return table.nbytes


@ray.remote(num_cpus=READING_CPUS)
def _join(*tables: pa.Table) -> pa.Table:
    # Counts are uint16 in one block and uint32 in the next, where a spot of it has 65,536 or more of a gene.
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


class PlacedData:
    """A worker's view of the placed data: `StageData` over the object store of its node."""

    def __init__(self, placed: Placed) -> None:
        self._placed = placed
        self._source: Callable[[np.ndarray], PatchSource] | None = None

    @property
    def batches_ahead(self) -> int:
        """See `RunConfig`."""
        return self._placed.run.batches_ahead

    def patches(self, rows: np.ndarray) -> PatchSource:
        """Return patches of the global rows, read in place."""
        if self._source is None:
            self._source = self._open()
        return self._source(rows)

    def _open(self) -> Callable[[np.ndarray], PatchSource]:
        placed, threads = self._placed, self._placed.run.decode_threads
        parts = in_place(ray.get(list(placed.patches)))
        if placed.residence == "decoded":
            decoded = [PatchBlock(_rows(part), part.column(PATCHES).to_numpy()) for part in parts]
            return lambda rows: Patches(decoded, rows)
        decoder = PatchDecoder(placed.dataset.manifest.patch.size_px, None if threads == "auto" else threads)
        if placed.residence == "streamed":
            return lambda rows: StreamedPatches(placed.dataset, rows, decoder)
        encoded = [EncodedBlock(_rows(part), part.column(IMAGE)) for part in parts]
        place = partial(place_of, placed.dataset.fragments(images=True))
        return lambda rows: EncodedPatches(encoded, rows, decoder, place)

    def counts(self, panel: Panel, rows: np.ndarray) -> Counts:
        """Return counts over `panel` of the global rows, read in place."""
        parts = in_place(ray.get(list(self._placed.counts[panel.key])))
        return Counts([_count_block(part, len(panel)) for part in parts], rows)

    def spots(self, rows: np.ndarray) -> SpotTable:
        """Return further facts about the global rows, read from the dataset's files."""
        return self._placed.dataset.spots().take(rows)

    def require_unchanged(self) -> None:
        """Raise InputError where the dataset has changed since it was opened."""
        self._placed.dataset.require_unchanged()


def in_place(tables: Iterable[pa.Table]) -> list[pa.RecordBatch]:
    """Return the tables a row group each, without a copy: to join the chunks of a column would copy it into every
    worker.
    """
    return [part for table in tables for part in table.to_batches() if len(part)]


def _rows(part: pa.RecordBatch) -> np.ndarray:
    return part.column(ROWS).to_numpy()


def _count_block(part: pa.RecordBatch, n_genes: int) -> CountBlock:
    index, count = (part.column(name) for name in (GENE_INDEX, GENE_COUNT))
    offsets = index.offsets.to_numpy()
    start, stop = offsets[0], offsets[-1]
    genes, counts = (values.values.to_numpy()[start:stop] for values in (index, count))
    return CountBlock(_rows(part), CompactRows(offsets - start, genes, counts, (len(part), n_genes)))
