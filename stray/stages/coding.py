"""Embedding of all spots of a dataset with a trained encoder in this process: without Ray, on one device.

n spots, D features, Z codes, K classes, G genes of the panel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from stray.cohort.coded import Coded
from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import Fragment, read_counts, read_patches
from stray.columns import ROWS
from stray.errors import InputError, Problem
from stray.models.scanvi import Scanvi
from stray.stages.contrastive.exported import TrainedModel, check_patches
from stray.stages.gene.encoder import GeneEncoder

BATCH = 256
"""Number of patches encoded at a time."""
FEATURES, CODES, PROBABILITIES, COUNTS, PATCHES = "features", "codes", "probabilities", "counts", "patches"
OnProgress = Callable[[int], None]
"""Called with the number of finished spots."""
Arrays = dict[str, np.ndarray]


class PictureInput:
    """The pictured spots of a dataset, for an image encoder."""

    def __init__(self, model: TrainedModel, dataset: PairedDataset) -> None:
        """Raise InputError when the patches are of another size than the model's, or there are none."""
        check_patches(model, dataset.manifest.patch, dataset.path)
        self.files = dataset.fragments(images=True)
        if not self.files:
            raise InputError(Problem(dataset.path, "no section has pictures", "ingest sections with images"))
        self._size_px = dataset.manifest.patch.size_px

    def read(self, file: Fragment) -> Iterator[Arrays]:
        """Yield global rows and uint8 patches (n, px, px, 3), a row group at a time."""
        for block in read_patches(file, self._size_px):
            yield {ROWS: block.rows, PATCHES: block.patches}


class GeneInput:
    """The spots of a dataset that have counts, for a gene encoder."""

    def __init__(self, encoder: GeneEncoder, dataset: PairedDataset) -> None:
        """Raise InputError when the dataset has no counts, or lacks more than half of the panel."""
        names = (dataset.genes.column(name).to_pylist() for name in ("symbol", "id"))
        try:
            self._place, self.missing = encoder.panel.place_in(*names)
        except ValueError as error:
            remedy = "take an encoder whose panel the dataset measures; genes must have its accessions or its symbols"
            raise InputError(Problem(dataset.path, str(error), remedy)) from None
        self.files = dataset.fragments(counts=True)
        if not self.files:
            raise InputError(Problem(dataset.path, "no section has counts", "ingest sections with counts"))
        self._n_genes = dataset.manifest.n_genes

    def read(self, file: Fragment) -> Iterator[Arrays]:
        """Yield global rows and float32 counts (n, G), a few spots at a time: they are dense."""
        present = np.flatnonzero(self._place >= 0)
        for block in read_counts(file, self._place[present], self._n_genes):
            for start in range(0, len(block.rows), 1024):
                part = slice(start, start + 1024)
                # One type for all blocks: `CountBlock` is uint16 or uint32 by what it holds.
                x_nG = np.zeros((len(block.rows[part]), len(self._place)), dtype=np.float32)
                x_nG[:, present] = block.matrix()[part].toarray()
                yield {ROWS: block.rows[part], COUNTS: x_nG}


@torch.no_grad()
def code_genes(encoder: GeneEncoder, batch: Arrays, device: torch.device | str) -> Arrays:
    """Return the rows of a batch of `GeneInput` with their codes (n, Z) and, by scANVI, class probabilities (n, K)."""
    x_nG = torch.from_numpy(batch[COUNTS]).to(device)
    found = {ROWS: batch[ROWS], CODES: encoder.model.encode(x_nG).cpu().numpy()}
    if isinstance(encoder.model, Scanvi):
        found[PROBABILITIES] = encoder.model.probabilities(x_nG).cpu().numpy()
    return found


def pictures_coded(model: TrainedModel, rows: np.ndarray, features_ND: np.ndarray) -> Coded:
    """Return features with the classes of the model's probe, where it has one."""
    probe = model.probe
    classes, probability_NK = ((), None) if probe is None else (probe.classes, probe.probabilities(features_ND))
    return Coded(
        rows=rows, kind=FEATURES, embedding_ND=features_ND, classes=classes, probability_NK=probability_NK
    )  # fmt: skip


def genes_coded(encoder: GeneEncoder, rows: np.ndarray, found: Arrays) -> Coded:
    """Return codes with the class probabilities that scANVI gives."""
    return Coded(
        rows=rows,
        kind=CODES,
        embedding_ND=found[CODES],
        classes=encoder.classes if PROBABILITIES in found else (),
        probability_NK=found.get(PROBABILITIES),
    )


def embed(model: TrainedModel, dataset: PairedDataset, on_progress: OnProgress | None = None) -> Coded:
    """Code all pictured spots, on the GPU where there is one. Raises InputError as `PictureInput` and the files do."""
    source, device = PictureInput(model, dataset), _device()
    model.encoder.to(device)

    def code(block: Arrays) -> Iterator[Arrays]:
        for start in range(0, len(block[ROWS]), BATCH):
            part = slice(start, start + BATCH)
            yield {ROWS: block[ROWS][part], FEATURES: model.features(block[PATCHES][part], device)}

    found = _all(source, code, dataset, on_progress)
    return pictures_coded(model, found.pop(ROWS), found[FEATURES])


def embed_genes(encoder: GeneEncoder, dataset: PairedDataset, on_progress: OnProgress | None = None) -> Coded:
    """Code all spots with counts, on the GPU where there is one. Raises InputError as `GeneInput` and the files do."""
    source, device = GeneInput(encoder, dataset), _device()
    encoder.model.to(device)
    found = _all(source, lambda block: iter([code_genes(encoder, block, device)]), dataset, on_progress)
    return genes_coded(encoder, found.pop(ROWS), found)


def _all(
    source: PictureInput | GeneInput,
    code: Callable[[Arrays], Iterator[Arrays]],
    dataset: PairedDataset,
    on_progress: OnProgress | None,
) -> Arrays:
    """Pass every block of the files through `code`; return the results by ascending rows. The next block is read while
    one is coded.
    """
    parts: list[Arrays] = []
    blocks = (block for file in source.files for block in source.read(file))
    with dataset.unchanged(), ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        ahead = pool.submit(next, blocks, None)
        while (block := ahead.result()) is not None:
            ahead = pool.submit(next, blocks, None)
            for part in code(block):
                parts.append(part)
                if on_progress is not None:
                    on_progress(sum(len(one[ROWS]) for one in parts))
    if not parts:
        raise InputError(Problem(dataset.path, "no spot has the input of the encoder", "ingest sections that have it"))
    return in_order(parts)


def in_order(parts: list[Arrays]) -> Arrays:
    """Return blocks as one, by ascending rows."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole[ROWS])
    return {name: values[order] for name, values in whole.items()}


def gpus() -> int:
    """Return how many GPUs this machine has."""
    return torch.cuda.device_count()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
