"""The data of the stages for a single process: read from the paired dataset, kept in this process's memory."""

from __future__ import annotations

import numpy as np

from stray.cohort.dataset import PairedDataset, SpotTable
from stray.cohort.fragments import PatchBlock, fragments, read_counts, read_patches
from stray.cohort.panel import Panel
from stray.train.blocks import Counts, Patches


class LocalData:
    """`StageData` without Ray: a unit test, a notebook, a debugger, the coding of a new section."""

    def __init__(self, dataset: PairedDataset) -> None:
        self._dataset = dataset
        self._patches: list[PatchBlock] | None = None

    def patches(self, rows: np.ndarray) -> Patches:
        """Patches of the global rows. Raises InputError naming the file and row group that cannot be read."""
        if self._patches is None:
            size_px = self._dataset.manifest.patch.size_px
            files = fragments(self._dataset, images=True)
            self._patches = [block for file in files for block in read_patches(file, size_px)]
        return Patches(self._patches, rows)

    def counts(self, panel: Panel, rows: np.ndarray) -> Counts:
        """Counts over `panel` of the global rows."""
        index, n_genes = np.array(panel.index), self._dataset.manifest.n_genes
        files = fragments(self._dataset, counts=True)
        return Counts([block for file in files for block in read_counts(file, index, n_genes)], rows)

    def spots(self, rows: np.ndarray) -> SpotTable:
        """What is known of the global rows besides."""
        return self._dataset.spots().take(rows)
