"""Protocol of a source of patches, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor


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
