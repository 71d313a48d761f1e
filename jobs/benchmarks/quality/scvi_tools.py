"""A gene stage trained by scvi-tools instead of stray: same panel, same spots, same settings, same folder of results.

scvi-tools is no dependency of stray (the `parity` extra installs it), so it is imported where it is used. Its weights
are kept in stray's module (`quality.weights`), so that whatever reads a gene stage's folder reads this one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from jobs.benchmarks.quality.weights import copy_weights
from stray import storage
from stray.config import GeneConfig, ScanviConfig, ScviConfig
from stray.data.blocks import Counts
from stray.data.source import StageData
from stray.errors import InputError, Problem
from stray.stages.gene.task import GeneTask
from stray.stages.results import ResultFolder
from stray.stages.spec import GeneStage

NAME = "scvi-tools"
UNLABELLED = "(no label)"
OWN_WEIGHTS = "scvi_tools.pt"
"""The state of scvi-tools' own module, beside stray's: scANVI starts from scVI's."""


def problems(config: GeneConfig, place: str = "gene") -> list[Problem]:
    """Return why scvi-tools cannot train this stage as stray does; empty where it can."""
    model, optim = config.model, config.optim
    if not isinstance(model, ScviConfig):
        return [Problem(f"{place}.model.kind", f"scvi-tools has no {model.kind}", "compare scvi or scanvi")]
    differs = {
        "model.batch_correction": not model.batch_correction,
        "model.inject": model.inject != "all" and model.n_layers > 1,
        "model.norm": model.norm != "batch",
        "model.balanced": isinstance(model, ScanviConfig) and model.balanced,
        "min_count": config.min_count > 0,
        "keep": config.keep != "last",
        "patience": config.patience is not None,
        "optim.decoupled": optim.decoupled,
        "optim.schedule": optim.schedule != "constant",
        "optim.warmup_share": optim.warmup_share > 0,
        "optim.clip_norm": optim.clip_norm is not None,
    }
    what = "is set to what scvi-tools does not do, or does otherwise"
    return [Problem(f"{place}.{name}", what, "leave it at its default") for name, is_so in differs.items() if is_so]


def require() -> None:
    """Raise InputError where scvi-tools is not installed."""
    if importlib.util.find_spec("scvi") is None:
        what = "scvi-tools is not installed in this environment"
        raise InputError(Problem("--against scvi-tools", what, "pip install 'stray-st[parity]'"))


def version() -> str:
    """Return the version of scvi-tools."""
    return importlib.metadata.version(NAME)


def run_stage(stage: GeneStage, data: StageData, root: str) -> None:
    """Train `stage` with scvi-tools on the CPU and keep its results under `root`, as stray's own `run_stage` does.

    What the stage starts from must be there. Returns at once when it was done before.
    """
    folder = folder_of(stage, root)
    if folder.is_done():
        return
    panel = stage.panel()
    counts = data.counts(panel, stage.rows)
    task = task_of(stage, counts)
    started = time.perf_counter()
    with _quiet():
        model = _model(stage, counts, task, root)
        model.train(**_training(stage, task))
        seconds = time.perf_counter() - started
        model.module.eval()
        own_elbo = float(model.get_elbo(indices=task.held_out)) if len(task.held_out) else None
    copy_weights(model.module, task.module)
    folder.write_weights(OWN_WEIGHTS, model.module.state_dict())
    folder.write_weights("weights.pt", task.module.state_dict())
    folder.write_bytes("panel.json", panel.to_json().encode())
    facts = {"gene": asdict(stage.config), "batches": task.names.tolist(), "classes": task.classes.tolist()}
    folder.write_json("config.json", {**facts, "seed": stage.seed})
    folder.finish({"kind": "gene", "dataset": stage.dataset, NAME: version(), "elbo": own_elbo, "seconds": seconds})


def folder_of(stage: GeneStage, root: str) -> ResultFolder:
    """Return the folder in which `run_stage` keeps the stage."""
    return ResultFolder(storage.join(root, stage.key))


def task_of(stage: GeneStage, counts: Counts) -> GeneTask:
    """Return stray's task of the stage: which spots train and which are held out, the batches, the classes, and the
    module.
    """
    return GeneTask(stage.config, counts, stage.batch, stage.label, seed=stage.seed, device=torch.device("cpu"))


def cohort(stage: GeneStage, counts: Counts, task: GeneTask) -> AnnData:
    """Return the stage's spots as scvi-tools takes them, in stray's order: counts over the panel, batch and label.

    Batches and classes are categories in the order of stray's numbers for them.
    """
    x = counts.entries(np.arange(len(counts)))
    entries = (x.x_e.numpy(), (x.row_e.numpy(), x.gene_e.numpy()))
    batch_N = pd.Categorical(stage.batch.astype(str), categories=task.names.astype(str))
    label_N = pd.Categorical(
        np.where(stage.label == "", UNLABELLED, stage.label),
        categories=[*np.unique(stage.label[stage.label != ""]), UNLABELLED],
    )
    return AnnData(
        sp.csr_matrix(entries, shape=(len(counts), counts.n_genes), dtype=np.float32),
        obs=pd.DataFrame({"batch": batch_N, "label": label_N}, index=[str(row) for row in stage.rows]),
    )


def _model(stage: GeneStage, counts: Counts, task: GeneTask, root: str) -> Any:
    """Return scvi-tools' model with the weights that training begins with."""
    import scvi  # pyright: ignore[reportMissingImports]

    scvi.settings.seed = stage.seed
    config = stage.config.model
    assert isinstance(config, ScviConfig)
    data = cohort(stage, counts, task)
    size = {
        "n_hidden": config.n_hidden,
        "n_latent": config.n_latent,
        "n_layers": config.n_layers,
        "dropout_rate": config.dropout,
        "dispersion": config.dispersion,
        "gene_likelihood": config.likelihood,
        "use_observed_lib_size": config.library == "observed",
    }
    if not isinstance(config, ScanviConfig):
        scvi.model.SCVI.setup_anndata(data, batch_key="batch")
        return scvi.model.SCVI(data, **size)
    own: dict[str, Any] = {"linear_classifier": config.linear_classifier}
    if stage.start is None:
        scvi.model.SCANVI.setup_anndata(data, batch_key="batch", labels_key="label", unlabeled_category=UNLABELLED)
        model = scvi.model.SCANVI(data, **size, **own)
    else:
        scvi.model.SCVI.setup_anndata(data, batch_key="batch")
        start = scvi.model.SCVI(data, **size)
        start.module.load_state_dict(folder_of(stage.start, root).read_weights(OWN_WEIGHTS))
        start.is_trained_ = True
        model = scvi.model.SCANVI.from_scvi_model(start, UNLABELLED, labels_key="label", **own)
    assert model.module.n_labels == len(task.classes), "classes that scvi-tools knows"
    model._data_splitter_cls = _splitter()
    return model


def _training(stage: GeneStage, task: GeneTask) -> dict[str, Any]:
    """Return the arguments of `train` that stray's settings amount to."""
    config, model, optim = stage.config, stage.config.model, stage.config.optim
    assert isinstance(model, ScviConfig)
    plan: dict[str, Any] = {
        "lr": optim.lr,
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
        "max_kl_weight": model.kl_weight,
        # Neither theirs nor ours rounds: with 15 epochs and a share of a half both divide by 7.5.
        "n_epochs_kl_warmup": None if model.kl_warmup_steps else model.kl_warmup_share * config.epochs,
        "n_steps_kl_warmup": model.kl_warmup_steps,
    }
    if isinstance(model, ScanviConfig):
        plan["classification_ratio"] = model.classification_weight
    return {
        "max_epochs": config.epochs,
        "batch_size": config.batch_size,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "plan_kwargs": plan,
        "datasplitter_kwargs": {
            "external_indexing": [task.trains, task.held_out, np.empty(0, dtype=np.int64)],
            # A last batch of one spot has no statistics: with stray it joins the one before, here it is left out.
            "drop_last": len(task.trains) % config.batch_size == 1,
        },
    }


def _splitter() -> type:
    """Return scvi-tools' splitter, but that every labelled spot teaches scANVI its class, held out of the ELBO or not,
    as with stray.
    """
    from scvi.dataloaders import SemiSupervisedDataSplitter  # pyright: ignore[reportMissingImports]

    class Splitter(SemiSupervisedDataSplitter):
        def train_dataloader(self) -> Any:
            loader, labelled = super().train_dataloader(), self._labeled_indices
            if len(labelled) % loader._batch_size == 1:
                labelled = np.append(labelled, labelled[:1])  # no batch of one spot
            loader.labeled_locs, loader._drop_last = [labelled], False
            loader.resample_labels()
            return loader

    return Splitter


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and log lines of scvi-tools and lightning, on which a reader of the comparison cannot act."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scvi  # pyright: ignore[reportMissingImports]  # noqa: F401  # importing it sets its levels anew

        for name in ("scvi", "lightning", "lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
