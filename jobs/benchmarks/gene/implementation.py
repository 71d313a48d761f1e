"""One implementation of the gene stage's benchmark, alone in its process.

`python -m jobs.benchmarks.gene.implementation NAME ...` trains on the matrix in a file and prints what it measured as
the last line, in JSON.

A process of its own, so that its peak memory is its own, and that no other's threads and caches are in its way.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from jobs.benchmarks.gene.products import product_rates
from stray.cohort.fragments import CountBlock
from stray.config import GeneConfig
from stray.data.blocks import Counts
from stray.stages.gene.task import GeneTask
from stray.track.tracker import NullTracker
from stray.training.loop import fit
from stray.training.process import matrix_products, process_memory
from stray.training.worker import LocalWorker

CONFIG = GeneConfig(validation_share=0.0)
"""Settings of the benchmark: ZINB, one hidden layer of 128, 10 latent dimensions, batches of 128, all spots train."""


def by_stray(counts_NG: sp.csr_matrix, batch_N: np.ndarray, epochs: int, config: GeneConfig) -> list[float]:
    """Return the spots per second of each epoch of stray's loop, in this process."""
    counts = Counts([CountBlock(np.arange(len(batch_N)), counts_NG)], np.arange(len(batch_N)))
    unlabelled_N = np.full(len(batch_N), "")
    worker = LocalWorker()
    config = replace(config, epochs=epochs)
    task = GeneTask(config, counts, batch_N, unlabelled_N, seed=0, device=worker.device)
    with matrix_products(config.precision):
        state = fit(task, config.optim, worker=worker, tracker=NullTracker(), prefix="gene", seed=0)
    return [epoch["spots_per_second"] for epoch in state.history]


def by_scvi_tools(counts_NG: sp.csr_matrix, batch_N: np.ndarray, epochs: int) -> list[float]:
    """Return the spots per second of each epoch of scvi-tools' own training with the same sizes, on the same device."""
    import anndata
    import lightning.pytorch as lightning  # pyright: ignore[reportMissingImports]
    import pandas as pd
    import scvi  # pyright: ignore[reportMissingImports]

    class Clock(lightning.Callback):
        """Times epochs."""

        def __init__(self) -> None:
            self.started, self.rates = 0.0, list[float]()

        def on_train_epoch_start(self, *_: Any) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.rates.append(len(batch_N) / (time.perf_counter() - self.started))

    obs = pd.DataFrame({"batch": batch_N}, index=[str(i) for i in range(len(batch_N))])
    adata = anndata.AnnData(counts_NG.astype(np.float32), obs=obs)
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, n_latent=10, n_hidden=128, n_layers=1, gene_likelihood="zinb")
    clock = Clock()
    model.train(
        max_epochs=epochs,
        train_size=1.0,
        batch_size=CONFIG.batch_size,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        enable_progress_bar=False,
        callbacks=[clock],
        check_val_every_n_epoch=None,
    )
    return clock.rates


IMPLEMENTATIONS: dict[str, Callable[[sp.csr_matrix, np.ndarray, int], list[float]]] = {
    "stray": lambda x, batch, epochs: by_stray(x, batch, epochs, CONFIG),
    "stray, compiled": lambda x, batch, epochs: by_stray(x, batch, epochs, replace(CONFIG, compile=True)),
    "stray, fp32": lambda x, batch, epochs: by_stray(x, batch, epochs, replace(CONFIG, precision="fp32")),
    "scvi-tools": by_scvi_tools,
    "products": lambda x, _, epochs: product_rates(x, epochs, sparse=False, precision="mixed"),
    "products, sparse first layer": lambda x, _, epochs: product_rates(x, epochs, sparse=True, precision="mixed"),
    "products, fp32": lambda x, _, epochs: product_rates(x, epochs, sparse=False, precision="fp32"),
}
"""Implementations by name."""


def main(words: list[str]) -> int:
    """Train one implementation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=IMPLEMENTATIONS)
    parser.add_argument("counts")
    parser.add_argument("batches")
    parser.add_argument("epochs", type=int)
    parser.add_argument("threads", type=int)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    counts, batch = sp.csr_matrix(sp.load_npz(args.counts)), np.load(args.batches)
    if args.name == "scvi-tools":
        import scvi  # noqa: F401  # pyright: ignore[reportMissingImports]  # loaded before memory is first looked at
    loaded = process_memory("VmRSS")
    rates = IMPLEMENTATIONS[args.name](counts, batch, args.epochs)
    found = {"rates": rates, "peak": process_memory("VmHWM"), "loaded": loaded}
    sys.stdout.write(f"\n{json.dumps(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
