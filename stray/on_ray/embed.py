"""Codes of a whole dataset through Ray Data: one encoder a worker process, blocks in, blocks out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data.extensions import ArrowTensorArray

from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import Fragment, fragments, read_counts, read_patches
from stray.columns import PATCHES, ROWS
from stray.errors import InputError, Problem
from stray.models.scanvi import Scanvi
from stray.on_ray.data import Fragments
from stray.on_ray.failures import input_error
from stray.on_ray.resources import resources
from stray.on_ray.waiting import Need, patiently, running
from stray.train.gene_folder import load_gene_encoder
from stray.train.model_folder import check_patches, load

FEATURES, CODES, PROBABILITIES, COUNTS = "features", "codes", "probabilities", "counts"

OnProgress = Callable[[int], None]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _ImageCoder:
    def __init__(self, model: str) -> None:
        # The driver has asked whether the folder's code is trusted.
        self._model, self._device = load(model, trust_code=True), _device()
        self._model.encoder.to(self._device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with running():
            return {ROWS: batch[ROWS], FEATURES: self._model.features(batch[PATCHES], self._device)}


class _GeneCoder:
    def __init__(self, folder: str) -> None:
        self._model, self._device = load_gene_encoder(folder).model, _device()
        self._model.to(self._device)

    @torch.no_grad()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with running():
            return self._code(batch)

    def _code(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x_nG = torch.from_numpy(batch[COUNTS]).to(self._device)
        found = {ROWS: batch[ROWS], CODES: self._model.encode(x_nG).cpu().numpy()}
        if isinstance(self._model, Scanvi):
            found[PROBABILITIES] = self._model.probabilities(x_nG).cpu().numpy()
        return found


def embed(
    model: str, dataset: PairedDataset, *, trust_code: bool = False, on_progress: OnProgress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return global rows (n,) of the pictured spots, ascending, and their features (n, dim), by the model in a folder.

    `on_progress` is told how many spots are done. Raises InputError when the model's patches are of another size,
    the dataset has no pictures, or a file cannot be read.
    """
    check_patches(load(model, trust_code=trust_code), dataset.manifest.patch, dataset.path)
    files = fragments(dataset, images=True)
    if not files:
        raise InputError(Problem(dataset.path, "no section has pictures", "ingest sections with images"))
    size_px = dataset.manifest.patch.size_px

    def read(fragment: Fragment) -> Iterable[pa.Table]:
        for block in read_patches(fragment, size_px):
            yield pa.table({ROWS: block.rows, PATCHES: ArrowTensorArray.from_numpy(block.patches)})

    with dataset.unchanged():
        rows, found = _through(files, read, _ImageCoder, model, on_progress)
    return rows, found[FEATURES]


def code_genes(
    folder: str, dataset: PairedDataset, *, on_progress: OnProgress | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[str, ...]]:
    """Return global rows (n,) of the spots with counts, ascending; their `codes` (n, Z) and, by scANVI, class
    `probabilities` (n, K); and the genes of the panel that the dataset lacks, which counted as zeros.

    Raises InputError when the folder holds no gene encoder, the dataset has no counts or lacks more than half of the
    panel, or a file cannot be read.
    """
    panel = load_gene_encoder(folder).panel
    try:
        place, missing = panel.place_in(*(dataset.genes.column(name).to_pylist() for name in ("symbol", "id")))
    except ValueError as error:
        remedy = "take an encoder whose panel the dataset measures; genes must have its accessions or its symbols"
        raise InputError(Problem(dataset.path, str(error), remedy)) from None
    files = fragments(dataset, counts=True)
    if not files:
        raise InputError(Problem(dataset.path, "no section has counts", "ingest sections with counts"))
    present, n_genes = np.flatnonzero(place >= 0), dataset.manifest.n_genes

    def read(fragment: Fragment) -> Iterable[pa.Table]:
        for block in read_counts(fragment, place[present], n_genes):
            for start in range(0, len(block.rows), 1024):  # dense, so a few at a time
                part = slice(start, start + 1024)
                # One type for all blocks, which Ray Data joins: `CountBlock` is uint16 or uint32 by what it holds.
                x_nG = np.zeros((len(block.rows[part]), len(place)), dtype=np.float32)
                x_nG[:, present] = block.counts[part].toarray()
                yield pa.table({ROWS: block.rows[part], COUNTS: ArrowTensorArray.from_numpy(x_nG)})

    with dataset.unchanged():
        rows, found = _through(files, read, _GeneCoder, folder, on_progress)
    return rows, found, missing


def _through(
    files: Sequence[Fragment],
    read: Callable[[Fragment], Iterable[pa.Table]],
    coder: type,
    model: str,
    on_progress: OnProgress | None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pass every block of `files` through `coder(model)`: return global rows, ascending, and what was found for
    each.
    """
    have = resources()
    # A CPU, or half of a single one, is left to the reading tasks; without it nothing would ever arrive.
    cpus = 1.0 if have.cpus >= 2 else 0.5
    share: dict[str, Any] = {"num_gpus": 1} if have.gpus else {"num_cpus": cpus}
    workers = int(have.gpus) if have.gpus else max(1, int(have.cpus) - 1)
    ray.data.DataContext.get_current().enable_progress_bars = False
    batches: list[Any] = []

    def code() -> None:
        lazy = ray.data.read_datasource(Fragments(files, read), override_num_blocks=len(files), num_cpus=cpus)
        coded = lazy.map_batches(
            coder, fn_constructor_args=(model,), batch_size=256, concurrency=min(workers, len(files)), **share
        )
        for batch in coded.iter_batches(batch_size=None):
            batches.append(batch)
            if on_progress is not None:
                on_progress(sum(len(one[ROWS]) for one in batches))

    try:
        patiently(code, Need("encoders", {"GPU": 1, "CPU": cpus} if have.gpus else {"CPU": 2 * cpus}))
    except Exception as error:
        raise input_error(error) or error from None
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(whole[ROWS])
    return whole.pop(ROWS)[order], {name: values[order] for name, values in whole.items()}
