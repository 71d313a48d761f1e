"""Residence of patches on a node: the fastest that fits the memory budget."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import numpy as np

from stray.cohort.dataset import READERS, PairedDataset
from stray.cohort.parquet import column_bytes
from stray.columns import IMAGE
from stray.config import RunConfig
from stray.errors import InputError, Problem

Residence = Literal["decoded", "encoded", "streamed"]
"""Pixels in memory, files' bytes in memory, or read from the files in every epoch."""

GIB = 2**30


def residence(dataset: PairedDataset, run: RunConfig) -> Residence:
    """Return the residence of the patches under `run`: a function of the dataset and the settings alone, the same on
    every machine.

    Raises InputError when a way that the settings force, or the window of a stream, passes the memory budget.
    """
    budget = run.memory_budget_gib * GIB
    decoded = decoded_bytes(dataset)
    if run.residence == "decoded" or (run.residence == "auto" and decoded <= budget):
        _require("the decoded patches", decoded, run, "set run.residence to auto")
        return "decoded"
    encoded = encoded_bytes(dataset)
    if run.residence == "encoded" or (run.residence == "auto" and encoded <= budget):
        _require("the encoded patches", encoded, run, "set run.residence to auto")
        return "encoded"
    pictured = int(dataset.spots().has_image.sum())
    window = encoded * min(run.window_spots / max(pictured, 1), 1.0)
    _require(f"a window of {run.window_spots:,} encoded patches", window, run, "lower run.window_spots")
    return "streamed"


def decoded_bytes(dataset: PairedDataset) -> int:
    """Return the size of all patches as uint8 pixels."""
    return int(dataset.spots().has_image.sum()) * dataset.manifest.patch.size_px**2 * 3


@lru_cache(maxsize=8)
def encoded_bytes(dataset: PairedDataset) -> int:
    """Return the size of all patches as they lie in the files, by the files' footers.

    Raises InputError naming a file that cannot be read.
    """
    paths = [file.path for file in dataset.fragments(images=True)]
    with ThreadPoolExecutor(READERS, thread_name_prefix="footers") as pool:
        return sum(pool.map(lambda path: column_bytes(path, IMAGE), paths))


def shards(dataset: PairedDataset, rows: np.ndarray) -> np.ndarray:
    """Return the row group, numbered over the files of the dataset, that holds each of the global `rows`; int64
    (N,).
    """
    starts = [start for file in dataset.fragments(images=True) for start in file.group_starts]
    return np.searchsorted(np.array(starts, dtype=np.int64), rows, side="right") - 1


def _require(what: str, need: float, run: RunConfig, otherwise: str) -> None:
    if need > run.memory_budget_gib * GIB:
        found = f"{what} take {need / GIB:.3g} GiB on each node, the budget is {run.memory_budget_gib:.3g} GiB"
        remedy = f"raise run.memory_budget_gib if the nodes have the memory, or {otherwise}"
        raise InputError(Problem("run.memory_budget_gib", found, remedy))
