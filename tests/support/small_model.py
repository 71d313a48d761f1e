"""A model folder as `stray train --folds none` leaves one, of an encoder with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stray.config import PatchConfig, TorchvisionConfig
from stray.metrics.probe import Probe
from stray.stages.contrastive import exported as model_folder
from stray.stages.contrastive.run import untrained

CLASSES = ("fat/adipose", "tumour")


def small_model(folder: Path, patch: PatchConfig, classes: tuple[str, ...] = CLASSES) -> str:
    """Write a ResNet-18 for `patch`, with a probe where there are classes; return its folder."""
    image = TorchvisionConfig()
    encoder = untrained(image, 0)
    rng = np.random.default_rng(0)
    probe = None
    if classes:
        probe = Probe(
            classes=classes,
            mean_D=np.zeros(512),
            scale_D=np.ones(512),
            weight_KD=rng.normal(size=(len(classes), 512)),
            bias_K=np.zeros(len(classes)),
            c=1.0,
            inner_score=0.5,
            converged=True,
        )
    facts = {"method": "clip_scvi", "seed": 0}
    model_folder.save(str(folder), encoder.state_dict(), image, None, probe, patch, "", facts)
    return str(folder)
