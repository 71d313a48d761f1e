"""Monitoring of the contrastive stage's embeddings after every epoch: retrieval on held-out spots, and collapse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stray.collective import gather_rows, rank, rank_rows
from stray.data.blocks import Counts
from stray.data.source import PatchSource
from stray.metrics.collapse import effective_rank, spread
from stray.metrics.retrieval import ahead, retrieval

MOST_CODES = 2048
"""Maximum number of codes checked for collapse; the cost of singular values grows with it."""
CHUNK = 256
"""Number of spots encoded at a time."""
Measured = tuple[dict[str, Tensor], float]
"""Sums and count for `Averages`."""


class PairMonitor:
    """Held-out spots of the training patients, on which it is watched how well a picture finds its own gene code.

    What is found is a function of the codes alone, the same on every number of workers, and decides nothing.
    """

    def __init__(self, patches: PatchSource, genes: Tensor | Counts, section_N: np.ndarray) -> None:
        """Patches, frozen codes or counts, and sections of the same held-out spots, at least one."""
        self._patches, self._genes = patches, genes
        _, self._section_N = np.unique(section_N.astype(str), return_inverse=True)

    def measure(self, code: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Measured:
        """Measure `retrieval` among all held-out spots (`validation_...`) and within their section
        (`validation_section_...`), and `collapse` of their codes: from rank 0, nothing from the others.

        `code` gives the image and gene codes (n, D) of patches and of what the gene tower takes, both on the host.
        Every rank must call this: each codes its share, and finds the places of the share's partners among all.
        """
        mine = np.arange(len(self._section_N))[rank_rows(len(self._section_N))]
        chunks = [mine[start : start + CHUNK] for start in range(0, len(mine), CHUNK)] or [mine]
        self._patches.expect(chunks)
        coded = [code(self._patches.gather(chunk), self._of_genes(chunk)) for chunk in chunks]
        image_ND, gene_ND = (gather_rows(torch.cat(local), len(self._section_N)) for local in zip(*coded, strict=True))
        image, gene = image_ND.cpu().numpy(), gene_ND.cpu().numpy()
        groups = {"validation": np.zeros_like(self._section_N), "validation_section": self._section_N}
        local_n8 = np.concatenate(
            [
                ahead(queries[mine], candidates, mine, group)
                for group in groups.values()
                for queries, candidates in ((image, gene), (gene, image))
            ],
            axis=1,
        )
        ahead_N8 = gather_rows(torch.from_numpy(local_n8).to(image_ND.device), len(self._section_N)).cpu().numpy()
        found = {}
        for place, (name, group) in enumerate(groups.items()):
            both = ahead_N8[:, 4 * place : 4 * place + 4]
            numbers = retrieval(both[:, :2], both[:, 2:], group)
            found |= {f"{name}_{measure}": value for measure, value in numbers.items()}
        return from_first(found | _collapse(image, gene), image_ND.device)

    def _of_genes(self, places: np.ndarray) -> Tensor:
        if isinstance(self._genes, Tensor):
            return self._genes[torch.from_numpy(places)]
        return self._genes.gather(places)


def collapse(image_ND: Tensor, gene_ND: Tensor) -> Measured:
    """Return spread and effective rank of the codes (N, D) of the images and of the genes, which all ranks hold
    alike.
    """
    return from_first(_collapse(image_ND.cpu().numpy(), gene_ND.cpu().numpy()), image_ND.device)


def _collapse(image_ND: np.ndarray, gene_ND: np.ndarray) -> dict[str, float]:
    places = np.unique(np.linspace(0, len(image_ND) - 1, min(len(image_ND), MOST_CODES)).astype(np.int64))
    found = {}
    for name, codes_ND in (("image", image_ND[places]), ("gene", gene_ND[places])):
        found |= {f"{name}_spread": spread(codes_ND), f"{name}_effective_rank": effective_rank(codes_ND)}
    return found


def from_first(found: dict[str, float], device: torch.device) -> Measured:
    """Return the values of rank 0: decisions and warnings of all ranks must use the same digits."""
    count = float(rank() == 0)
    values = torch.tensor(list(found.values()), dtype=torch.float64, device=device) * count
    return dict(zip(found, values.unbind(), strict=True)), count
