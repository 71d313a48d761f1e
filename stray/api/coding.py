"""Code a dataset where it is cheapest: in this process, or on the cluster that is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from stray.cohort.coded import Coded
from stray.cohort.dataset import PairedDataset

if TYPE_CHECKING:
    from stray.stages.contrastive.exported import TrainedModel

OnProgress = Callable[[int], None]


def code_pictures(
    model: TrainedModel,
    path: str,
    dataset: PairedDataset,
    *,
    trust_code: bool = False,
    on_progress: OnProgress | None = None,
) -> Coded:
    """Code the pictured spots: on the cluster of RAY_ADDRESS where one is named, else in this process."""
    from stray.stages.coding import PictureInput, embed

    PictureInput(model, dataset)  # before Ray starts: patches of another size are refused at once
    if not _on_cluster():
        return embed(model, dataset, on_progress)
    from stray.on_ray import embed as ray_embed
    from stray.on_ray import session

    with session.session():
        return ray_embed.embed(path, dataset, trust_code=trust_code, on_progress=on_progress)


def code_genes(
    path: str, dataset: PairedDataset, *, on_progress: OnProgress | None = None
) -> tuple[Coded, tuple[str, ...]]:
    """Code the spots with counts by the gene stage at `path`, as `code_pictures`; also return the genes of its panel
    that the dataset lacks.
    """
    from stray.stages.coding import GeneInput, embed_genes
    from stray.stages.gene.encoder import load_gene_encoder

    # Before Ray starts: what is no gene stage, or has another panel, is refused at once.
    encoder = load_gene_encoder(path)
    missing = GeneInput(encoder, dataset).missing
    if not _on_cluster():
        return embed_genes(encoder, dataset, on_progress), missing
    from stray.on_ray import embed as ray_embed
    from stray.on_ray import session

    with session.session():
        return ray_embed.embed_genes(path, dataset, on_progress=on_progress)


def _on_cluster() -> bool:
    """Return whether a cluster is named (a submitted job's is), or this machine has several GPUs."""
    from stray.stages.coding import gpus

    return os.environ.get("RAY_ADDRESS", "") not in ("", "local") or gpus() > 1
