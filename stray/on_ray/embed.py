"""Code all spots of a dataset through Ray Data: one encoder a worker process, blocks in, blocks out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data.extensions import ArrowTensorArray

from stray.cohort.coded import Coded
from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import Fragment
from stray.columns import ROWS
from stray.on_ray.data import Fragments
from stray.on_ray.failures import input_error
from stray.on_ray.resources import resources
from stray.on_ray.waiting import Need, patiently, running
from stray.stages.coding import (
    FEATURES,
    PATCHES,
    Arrays,
    GeneInput,
    OnProgress,
    PictureInput,
    code_genes,
    genes_coded,
    in_order,
    pictures_coded,
)
from stray.stages.contrastive.exported import load
from stray.stages.gene.encoder import load_gene_encoder


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _ImageCoder:
    def __init__(self, model: str) -> None:
        # The driver has asked whether the folder's code is trusted.
        self._model, self._device = load(model, trust_code=True), _device()
        self._model.encoder.to(self._device)

    def __call__(self, batch: Arrays) -> Arrays:
        with running():
            return {ROWS: batch[ROWS], FEATURES: self._model.features(batch[PATCHES], self._device)}


class _GeneCoder:
    def __init__(self, folder: str) -> None:
        self._encoder, self._device = load_gene_encoder(folder), _device()
        self._encoder.model.to(self._device)

    def __call__(self, batch: Arrays) -> Arrays:
        with running():
            return code_genes(self._encoder, batch, self._device)


def embed(
    model: str, dataset: PairedDataset, *, trust_code: bool = False, on_progress: OnProgress | None = None
) -> Coded:
    """Code all pictured spots by the model in a folder.

    Raises InputError when the model's patches are of another size, the dataset has no pictures, or a file cannot be
    read.
    """
    loaded = load(model, trust_code=trust_code)
    found = _through(PictureInput(loaded, dataset), dataset, _ImageCoder, model, on_progress)
    return pictures_coded(loaded, found.pop(ROWS), found[FEATURES])


def embed_genes(
    folder: str, dataset: PairedDataset, *, on_progress: OnProgress | None = None
) -> tuple[Coded, tuple[str, ...]]:
    """Code all spots with counts; also return the genes of the panel that the dataset lacks, which count as zeros.

    Raises InputError when the folder holds no gene encoder, the dataset has no counts or lacks more than half of the
    panel, or a file cannot be read.
    """
    encoder = load_gene_encoder(folder)
    source = GeneInput(encoder, dataset)
    found = _through(source, dataset, _GeneCoder, folder, on_progress)
    return genes_coded(encoder, found.pop(ROWS), found), source.missing


def _through(
    source: PictureInput | GeneInput,
    dataset: PairedDataset,
    coder: type,
    model: str,
    on_progress: OnProgress | None,
) -> Arrays:
    """Pass every block of the files through `coder(model)`; return the results by ascending rows."""
    have = resources()
    # A CPU, or half of a single one, is left to the reading tasks; without it nothing would ever arrive.
    cpus = 1.0 if have.cpus >= 2 else 0.5
    share: dict[str, Any] = {"num_gpus": 1} if have.gpus else {"num_cpus": cpus}
    workers = int(have.gpus) if have.gpus else max(1, int(have.cpus) - 1)
    ray.data.DataContext.get_current().enable_progress_bars = False
    batches: list[Any] = []

    def read(file: Fragment) -> Iterable[pa.Table]:
        for block in source.read(file):
            yield pa.table({name: _column(values) for name, values in block.items()})

    def code() -> None:
        files = source.files
        lazy = ray.data.read_datasource(Fragments(files, read), override_num_blocks=len(files), num_cpus=cpus)
        coded = lazy.map_batches(
            coder, fn_constructor_args=(model,), batch_size=256, concurrency=min(workers, len(files)), **share
        )
        for batch in coded.iter_batches(batch_size=None):
            batches.append(batch)
            if on_progress is not None:
                on_progress(sum(len(one[ROWS]) for one in batches))

    try:
        with dataset.unchanged():
            patiently(code, Need("encoders", {"GPU": 1, "CPU": cpus} if have.gpus else {"CPU": 2 * cpus}))
    except Exception as error:
        raise input_error(error) or error from None
    return in_order(batches)


def _column(values: np.ndarray) -> Any:
    return values if values.ndim == 1 else ArrowTensorArray.from_numpy(values)
