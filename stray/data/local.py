"""The data of the stages for a single process: read from the paired dataset, kept in this process's memory."""

from __future__ import annotations

from functools import partial

import numpy as np

from stray.cohort.dataset import PairedDataset, SpotTable
from stray.cohort.fragments import EncodedBlock, PatchBlock, place_of, read_counts, read_encoded, read_patches
from stray.cohort.panel import Panel
from stray.cohort.residence import Residence
from stray.data.blocks import Counts, Patches
from stray.data.decoding import EncodedPatches, PatchDecoder
from stray.data.source import PatchSource
from stray.data.streaming import StreamedPatches


class LocalData:
    """`StageData` without Ray: a unit test, a notebook, a debugger, the coding of a new section."""

    batches_ahead = 1

    def __init__(self, dataset: PairedDataset, residence: Residence = "decoded", threads: int | None = None) -> None:
        """`threads` decode patches that are not kept decoded; None: as many as torch computes with."""
        self._dataset, self._residence = dataset, residence
        self._files = dataset.fragments(images=True)
        self._decoder = PatchDecoder(dataset.manifest.patch.size_px, threads)
        self._decoded: list[PatchBlock] | None = None
        self._encoded: list[EncodedBlock] | None = None

    def patches(self, rows: np.ndarray) -> PatchSource:
        """Return patches of the global rows. Raises InputError naming the file and row group that cannot be read."""
        if self._residence == "streamed":
            return StreamedPatches(self._dataset, rows, self._decoder)
        if self._residence == "encoded":
            if self._encoded is None:
                self._encoded = [block for file in self._files for block in read_encoded(file)]
            return EncodedPatches(self._encoded, rows, self._decoder, partial(place_of, self._files))
        if self._decoded is None:
            self._decoded = [block for file in self._files for block in read_patches(file, self._decoder.size_px)]
        return Patches(self._decoded, rows)

    def counts(self, panel: Panel, rows: np.ndarray) -> Counts:
        """Return counts over `panel` of the global rows."""
        index, n_genes = np.array(panel.index), self._dataset.manifest.n_genes
        files = self._dataset.fragments(counts=True)
        return Counts([block for file in files for block in read_counts(file, index, n_genes)], rows)

    def spots(self, rows: np.ndarray) -> SpotTable:
        """Return further facts about the global rows."""
        return self._dataset.spots().take(rows)

    def require_unchanged(self) -> None:
        """Raise InputError where the dataset has changed since it was opened."""
        self._dataset.require_unchanged()
