"""Benchmark of the gene stage: implementations train the same model on the same matrix, in turn, over several rounds.

Machines are shared and noisy: only ratios of one run are worth reading, and only within a round.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import compact, read_counts
from stray.cohort.panel import fit_panel
from stray.cohort.split import patients
from stray.config import PanelConfig
from stray.noise import numpy_generator

NONZERO_MEAN, NONZERO_SPREAD = -2.9, 1.5
"""Mean and spread of the logarithm of a gene's mean count in the drawn matrix: 11% of its counts are not zero, as in
HER2ST.
"""


@dataclass(frozen=True)
class Measured:
    """Measurements of one implementation."""

    name: str
    rates: tuple[float, ...]
    """Spots a second: the median epoch of each round, the first epoch left out."""
    peak_bytes: int
    """Largest resident memory of its process in any round."""
    training_bytes: int
    """Part of that which was not there when the libraries and the matrix were loaded."""

    @property
    def spots_per_second(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rates)


def ratios(of: Measured, to: Measured) -> tuple[float, float, float]:
    """Return the median, smallest and largest over the rounds of `of`'s speed over `to`'s in the same round."""
    by_round = [a / b for a, b in zip(of.rates, to.rates, strict=True)]
    return statistics.median(by_round), min(by_round), max(by_round)


def drawn(n_spots: int, n_genes: int, n_batches: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return counts (N, G) of a negative binomial and the batch (N,) of each spot: for a benchmark without a cohort."""
    draw = numpy_generator(0, "race")  # another word would draw another matrix
    mean_G = np.exp(draw.normal(NONZERO_MEAN, NONZERO_SPREAD, n_genes))
    size_N = np.exp(draw.normal(0.0, 0.5, n_spots))
    parts = []
    for start in range(0, n_spots, 1024):
        mu_nG = size_N[start : start + 1024, None] * mean_G
        parts.append(sp.csr_matrix(draw.poisson(draw.gamma(1.0, mu_nG))))
    batch_N = np.array([f"P{i % n_batches}" for i in range(n_spots)])
    return compact(sp.csr_matrix(sp.vstack(parts))), batch_N


def of_cohort(path: str, config: PanelConfig) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return counts (N, G) of all spots of a paired dataset over its panel, and the patient (N,) of each.

    Raises InputError when there is no dataset, or no panel can be fitted.
    """
    dataset = PairedDataset.open(path)
    spots = dataset.spots()
    panel = fit_panel(dataset, patients(spots), config)
    rows = np.flatnonzero(spots.has_counts)
    files = dataset.fragments(counts=True)
    blocks = [b for file in files for b in read_counts(file, np.array(panel.index), dataset.manifest.n_genes)]
    counts_NG = compact(sp.csr_matrix(sp.vstack([block.counts for block in blocks])))
    return counts_NG, spots.patient[rows].astype(str)


def compare(
    names: Sequence[str],
    counts_NG: sp.csr_matrix,
    batch_N: np.ndarray,
    *,
    rounds: int,
    epochs: int,
    threads: int,
    on_run: Callable[[str, int], None],
) -> list[Measured]:
    """Run each implementation `rounds` times, for one epoch and then `epochs` that count; `on_run(name, round)` is
    called before each.

    Raises RuntimeError with the end of an implementation's output when it fails.
    """
    rates: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        counts, batches = Path(folder) / "counts.npz", Path(folder) / "batches.npy"
        sp.save_npz(counts, counts_NG, compressed=False)
        np.save(batches, batch_N)
        for number in range(rounds):
            # Each round begins with another, so that nobody always follows the same neighbour.
            for name in np.roll(np.array(names), -number).tolist():
                on_run(name, number)
                found = _run(name, [str(counts), str(batches), str(1 + epochs), str(threads)], threads)
                rates[name].append(statistics.median(found["rates"][1:]))
                peaks[name].append((found["peak"], found["peak"] - found["loaded"]))
    most = {name: [max(values) for values in zip(*peaks[name], strict=True)] for name in names}
    return [Measured(name, tuple(rates[name]), *most[name]) for name in names]


def _run(name: str, words: list[str], threads: int) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "jobs.benchmarks.gene.implementation", name, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])
