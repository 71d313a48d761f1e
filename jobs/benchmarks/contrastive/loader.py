"""Patches from elsewhere, to compare a stage with: from tensors in memory, or from a plain PyTorch DataLoader over the
same Parquet files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stray.cohort.dataset import PairedDataset
from stray.cohort.decode import decode_patch
from stray.cohort.fragments import read_encoded
from stray.data.local import LocalData
from stray.data.source import PatchSource

KEPT_BYTES = 2 * 2**30
"""Size of the batches that are kept as tensors; where an epoch has more, they come again in turn."""


class InMemoryPatches:
    """Batches that were made before the first step: nothing is read, decoded or gathered.

    Only their sizes are those of the batches asked for: the step takes as long on any patches.
    """

    def __init__(self, patches: PatchSource) -> None:
        self._patches, self.rows = patches, patches.rows
        self._kept: list[Tensor] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self.rows)

    def expect(self, upcoming: Sequence[np.ndarray]) -> None:
        """Make the batches, the first time."""
        for positions in () if self._kept else upcoming:
            self._kept.append(self._patches.gather(positions))
            if sum(batch.nbytes for batch in self._kept) > KEPT_BYTES:
                break
        self._next = 0

    def gather(self, positions: np.ndarray) -> Tensor:
        """Return the next batch, from the first again after the last."""
        batch = self._kept[self._next % len(self._kept)] if self._kept else None
        self._next += 1
        return batch if batch is not None and len(batch) == len(positions) else self._patches.gather(positions)


class EncodedImages(Dataset):
    """The pictures of `rows` as they lie in the Parquet files, read into memory once; an item is decoded by PIL."""

    def __init__(self, dataset: PairedDataset, rows: np.ndarray) -> None:
        blocks = [block for file in dataset.fragments(images=True) for block in read_encoded(file)]
        held = np.concatenate([block.rows for block in blocks])
        order = np.searchsorted(held, rows)  # blocks come in the order of the rows
        self.images: pa.ChunkedArray = pa.chunked_array([block.images for block in blocks]).take(pa.array(order))
        self.size_px = dataset.manifest.patch.size_px

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> Tensor:
        return torch.from_numpy(decode_patch(self.images[position].as_py(), self.size_px, str).copy())


class _Batches:
    """The batches of an epoch, told before it begins: a batch sampler."""

    def __init__(self) -> None:
        self.upcoming: Sequence[np.ndarray] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (positions.tolist() for positions in self.upcoming)

    def __len__(self) -> int:
        return len(self.upcoming)


class LoaderPatches:
    """The same batches from a DataLoader."""

    def __init__(self, dataset: PairedDataset, rows: np.ndarray, processes: int) -> None:
        """`processes` decode; 0: the process itself, when a batch is asked for."""
        self.rows, self._batches, self._images = rows, _Batches(), EncodedImages(dataset, rows)
        self._loader = DataLoader(
            self._images,
            batch_sampler=self._batches,
            num_workers=processes,
            persistent_workers=processes > 0,
            pin_memory=torch.cuda.is_available(),
        )
        self._epoch: Iterator[Tensor] = iter(())
        self._left: deque[np.ndarray] = deque()

    def __len__(self) -> int:
        return len(self.rows)

    def expect(self, upcoming: Sequence[np.ndarray]) -> None:
        """Begin an epoch."""
        self._batches.upcoming, self._left = upcoming, deque(upcoming)
        self._epoch = iter(self._loader)

    def gather(self, positions: np.ndarray) -> Tensor:
        """Return the loader's next batch; what is asked for outside an epoch, a patch to try the encoder on, comes past
        it.
        """
        if self._left:
            assert np.array_equal(self._left.popleft(), positions), "asked for in another order than expected"
            batch_nHWC = next(self._epoch)
        else:
            batch_nHWC = torch.stack([self._images[i] for i in positions.tolist()])
        return batch_nHWC.permute(0, 3, 1, 2)


class InMemoryData(LocalData):
    """Stage data whose patches are tensors in memory."""

    def patches(self, rows: np.ndarray) -> PatchSource:
        """See `InMemoryPatches`."""
        return InMemoryPatches(super().patches(rows))


class LoaderData(LocalData):
    """Stage data whose patches come from a DataLoader, without any other thread or process beside the step."""

    batches_ahead = 0

    def __init__(self, dataset: PairedDataset, processes: int) -> None:
        super().__init__(dataset)
        self._processes = processes

    def patches(self, rows: np.ndarray) -> PatchSource:
        """See `LoaderPatches`."""
        return LoaderPatches(self._dataset, rows, self._processes)
