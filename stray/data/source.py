"""Protocols of the data that a stage reads, wherever it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from stray.cohort.dataset import SpotTable
from stray.cohort.panel import Panel
from stray.data.blocks import Counts


class PatchSource(Protocol):
    """Patches of some global rows: `position` i is the i-th of them."""

    rows: np.ndarray
    """The global rows."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def expect(self, upcoming: Sequence[np.ndarray]) -> None:
        """Take note of the positions of the batches that will be gathered next, in their order. What is gathered never
        depends on it; how often a source reads its files may.
        """
        ...

    def gather(self, positions: np.ndarray) -> Tensor:
        """Gather patches (n, 3, px, px) uint8, channels last in memory. Called by one thread at a time.

        Raises InputError that names file, row group and row of a patch that is read or decoded here and cannot be.
        """
        ...


class StageData(Protocol):
    """The data of a fold as a worker reaches it."""

    @property
    def batches_ahead(self) -> int:
        """Batches that are gathered ahead of the step."""
        ...

    def patches(self, rows: np.ndarray) -> PatchSource:
        """Return patches of the global rows."""
        ...

    def counts(self, panel: Panel, rows: np.ndarray) -> Counts:
        """Return counts over `panel` of the global rows."""
        ...

    def spots(self, rows: np.ndarray) -> SpotTable:
        """Return further facts about the global rows; read when asked for, for a message."""
        ...

    def require_unchanged(self) -> None:
        """Raise InputError where the dataset has changed since it was opened."""
        ...
