"""A torch module as an MLflow model that needs nothing of stray to be loaded."""

from __future__ import annotations

import copy
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

# First: it sets what MLflow reads when it is imported.
from stray.track import mlflow_client  # noqa: F401

# isort: split
from mlflow import pytorch as pytorch_flavour
from mlflow.models import infer_signature

if TYPE_CHECKING:
    import numpy as np
    import torch


def save_model(module: torch.nn.Module, example: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write `module` (one array in, one out) as an MLflow model folder at `path`, which must not exist.

    The graph is exported with its weights (`torch.export`, no pickled classes), from a copy in evaluation mode on
    the CPU. The size of the first axis stays free where the example has two items or more.
    """
    import torch

    frozen = copy.deepcopy(module).to("cpu").eval()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        output = frozen(torch.from_numpy(example)).numpy()
    # Requirements are named rather than inferred: inference starts another process that imports everything.
    requirements = [f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "torch", "numpy")]
    with _quiet(), torch.no_grad():
        pytorch_flavour.save_model(
            frozen,
            os.fspath(path),
            signature=infer_signature(example, output),
            input_example=example,
            pip_requirements=requirements,
            serialization_format="pt2",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the deprecation warnings that exporting raises inside torch and MLflow."""
    exporting = logging.getLogger("torch.export")
    level = exporting.level
    exporting.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporting.setLevel(level)
