"""The only collective of the losses: both modalities' embeddings of the whole global batch, with gradient,
and the spots' classes.

Gathering without gradient would scale the towers' gradients by 1/W or turn them the wrong way; so would negatives
drawn from one worker alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stray.collective import gather_rows, rank_rows


@dataclass(frozen=True)
class Gathered:
    """Embeddings of length one: n local rows, N of the global batch, `rows` the places of the local among the
    global.
    """

    image_nD: Tensor
    gene_nD: Tensor
    image_ND: Tensor
    gene_ND: Tensor
    rows: slice
    class_N: Tensor | None = None
    """The class of each spot, int64, -1 where it is not known; only where a loss asks for classes."""

    @property
    def count(self) -> int:
        """Spots of the global batch, N."""
        return len(self.gene_ND)

    @property
    def place_n(self) -> Tensor:
        """Place of each local row among the global ones."""
        return torch.arange(self.rows.start, self.rows.stop, device=self.image_nD.device)


def gather(image_nD: Tensor, gene_nD: Tensor, count: int, class_n: Tensor | None = None) -> Gathered:
    """Gather a global batch of `count` spots, of which this rank holds its share."""
    image_ND, gene_ND = gather_rows(image_nD, count), gather_rows(gene_nD, count)
    class_N = None if class_n is None else gather_rows(class_n, count)
    return Gathered(image_nD, gene_nD, image_ND, gene_ND, rank_rows(count), class_N)
