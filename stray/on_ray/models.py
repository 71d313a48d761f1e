"""The model of a method that trained on all patients: a folder, and an MLflow model that `mlflow` alone serves."""

from __future__ import annotations

import numpy as np

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.errors import InputError
from stray.evaluate import fit_probe
from stray.experiment.cells import Cell
from stray.models.towers import image_coder, kept_projection
from stray.recipe import dump_yaml
from stray.stages.contrastive.exported import Classifier, save
from stray.track.mlflow import MlflowTracker


def model_folder(cell: Cell, root: str) -> str:
    """Return the place of a cell's model: by its names, and by everything that went into it.

    Two recipes, or two datasets, under one name of an experiment leave a folder each.
    """
    return storage.join(root, "models", f"{cell.method}-seed{cell.seed}-{cell.key.rpartition('-')[2]}")


def export(
    cell: Cell, dataset: PairedDataset, features_ND: np.ndarray, rows: np.ndarray, root: str, run: MlflowTracker
) -> str:
    """Fit the probe on every label that may train, write the folder, log the model; returns the folder.

    Without any label there is no probe: the folder holds the encoder alone, and no model is logged.
    """
    try:
        probe = fit_probe(features_ND, rows, dataset.spots(), cell.fold.train, cell.recipe.eval, cell.seed)
    except InputError:
        probe = None
    state = cell.scored.folder.read_weights("encoder.pt")
    patch = dataset.manifest.patch
    facts = {
        "method": cell.method,
        "seed": cell.seed,
        "dataset": dataset.manifest.digest,
        "patients": list(cell.fold.train),
        "classes": list(probe.classes) if probe else [],
    }
    folder = model_folder(cell, root)
    config = cell.recipe.contrastive
    trained = cell.scored.epochs > 0
    projection = kept_projection(config) if trained else None
    save(folder, state, config.image, projection, probe, patch, dump_yaml(cell.recipe), facts)
    if probe is not None:
        encoder = image_coder(config.image, projection)
        encoder.load_state_dict(state)
        example = np.zeros((2, patch.size_px, patch.size_px, 3), dtype=np.float32)
        run.model(Classifier(encoder.eval(), probe), example, cell.method)
    return folder
