"""Plan of batches: a function of (seed, epoch, step), never of the number of workers or of timing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stray.noise import numpy_generator


@dataclass(frozen=True)
class BatchPlan:
    """Global batches over `count` training spots, drawn anew each epoch without replacement.

    The remainder of an epoch (fewer spots than a batch) sits the epoch out, or forms a smaller batch of its own;
    where that batch would be smaller than `smallest`, it joins the one before it.
    """

    count: int
    batch_size: int
    seed: int
    keep_remainder: bool
    smallest: int = 2

    def sizes(self) -> list[int]:
        """Return the number of spots in each global batch of an epoch."""
        if self.count <= self.batch_size:
            return [self.count]
        whole, rest = divmod(self.count, self.batch_size)
        sizes = [self.batch_size] * whole
        if rest and self.keep_remainder:
            if rest >= self.smallest:
                sizes.append(rest)
            else:
                sizes[-1] += rest
        return sizes

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.sizes())

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the epoch's global batches: positions 0..count-1 among the training spots."""
        order = numpy_generator(self.seed, "plan", epoch).permutation(self.count)
        ends = np.cumsum(self.sizes())
        return [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
