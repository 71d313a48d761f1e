"""Image features of a whole dataset through Ray Data: one encoder a worker process, blocks in, blocks out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data.extensions import ArrowTensorArray

from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import Fragment, fragments, read_patches
from stray.columns import PATCHES, ROWS
from stray.errors import InputError, Problem
from stray.on_ray.data import Fragments
from stray.on_ray.failures import input_error
from stray.on_ray.resources import resources
from stray.train.model_folder import check_patches, load

FEATURES = "features"


class _Embedder:
    def __init__(self, model: str) -> None:
        self._model = load(model)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.encoder.to(self._device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {ROWS: batch[ROWS], FEATURES: self._model.features(batch[PATCHES], self._device)}


def embed(
    model: str, dataset: PairedDataset, *, on_progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Global rows (n,) of the pictured spots, ascending, and their features (n, dim), by the model in a folder.

    `on_progress` is told how many spots are done. Raises InputError when the model's patches are of another size,
    the dataset has no pictures, or a file cannot be read.
    """
    check_patches(load(model), dataset.manifest.patch, dataset.path)
    files = fragments(dataset, images=True)
    if not files:
        raise InputError(Problem(dataset.path, "no section has pictures", "ingest sections with images"))
    size_px = dataset.manifest.patch.size_px

    def read(fragment: Fragment) -> Iterable[pa.Table]:
        for block in read_patches(fragment, size_px):
            yield pa.table({ROWS: block.rows, PATCHES: ArrowTensorArray.from_numpy(block.patches)})

    have = resources()
    share: dict[str, Any] = {"num_gpus": 1} if have.gpus else {"num_cpus": 1}
    # A CPU is left to the reading tasks; without it nothing would ever arrive.
    workers = int(have.gpus) if have.gpus else max(1, int(have.cpus) - 1)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows, features, done = [], [], 0
    try:
        coded = ray.data.read_datasource(Fragments(files, read), override_num_blocks=len(files)).map_batches(
            _Embedder, fn_constructor_args=(model,), batch_size=256, concurrency=min(workers, len(files)), **share
        )
        for batch in coded.iter_batches(batch_size=None):
            rows.append(batch[ROWS])
            features.append(batch[FEATURES])
            done += len(batch[ROWS])
            if on_progress is not None:
                on_progress(done)
    except Exception as error:
        raise input_error(error) or error from None
    rows_n = np.concatenate(rows)
    order = np.argsort(rows_n)
    return rows_n[order], np.concatenate(features)[order]
