"""A trained image encoder with its probe, as a folder that codes and classifies new sections. Loaded without Ray."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from stray import storage
from stray.config import CallableConfig, ImageConfig, PatchConfig, ProjectionConfig
from stray.errors import InputError, Problem
from stray.metrics.probe import Probe
from stray.models.backbones import restored
from stray.models.towers import ImageCoder, image_coder
from stray.stages.results import ResultFolder


@dataclass(frozen=True)
class TrainedModel:
    """Trained encoder with its probe, as `stray embed` and `stray predict` use it."""

    encoder: ImageCoder
    probe: Probe | None
    """None if no training spot had a label."""
    patch: PatchConfig
    """Patches that it was trained on; inputs must have the same size."""
    facts: dict[str, Any]
    """Method, seed, dataset and patients that it comes from."""

    @torch.no_grad()
    def features(self, patches_nHWC: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
        """Return features (n, dim) float32 of uint8 patches (n, px, px, 3)."""
        batch = torch.from_numpy(patches_nHWC).permute(0, 3, 1, 2).to(device)
        return self.encoder.eval()(batch.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()


class Classifier(nn.Module):
    """Encoder and probe in one module, from patches to class probabilities, for use with MLflow alone."""

    def __init__(self, encoder: ImageCoder, probe: Probe) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean_D = nn.Buffer(torch.from_numpy(probe.mean_D).float())
        self.scale_D = nn.Buffer(torch.from_numpy(probe.scale_D).float())
        self.weight_KD = nn.Buffer(torch.from_numpy(probe.weight_KD).float())
        self.bias_K = nn.Buffer(torch.from_numpy(probe.bias_K).float())

    def forward(self, patches_nHWC: Tensor) -> Tensor:
        """Return class probabilities (n, K) of patches (n, px, px, 3) with values 0 to 255, in the order of the probe's
        classes.
        """
        features_nD = self.encoder(patches_nHWC.permute(0, 3, 1, 2).float() / 255.0)
        return torch.softmax((features_nD - self.mean_D) / self.scale_D @ self.weight_KD.T + self.bias_K, dim=-1)


def save(
    path: str,
    encoder_state: dict[str, Any],
    image: ImageConfig,
    projection: ProjectionConfig | None,
    probe: Probe | None,
    patch: PatchConfig,
    recipe_yaml: str,
    facts: dict[str, Any],
) -> None:
    """Write the folder; its mark of completion comes last. `projection` is the head that belongs to the encoder, as
    `kept_projection` says.
    """
    folder = ResultFolder(path)
    folder.clear()  # a model without a probe must not keep that of an earlier model
    folder.write_weights("encoder.pt", encoder_state)
    tree = {"image": asdict(restored(image)), "projection": None if projection is None else asdict(projection)}
    folder.write_json("model.json", {**tree, "patch": asdict(patch), "facts": facts})
    folder.write_bytes("recipe.yaml", recipe_yaml.encode())
    if probe is not None:
        folder.write_bytes("probe.npz", probe.to_bytes())
    folder.finish({"kind": "model", "probe": probe is not None, **facts})


def load(path: str, *, trust_code: bool = False) -> TrainedModel:
    """Return the model of a folder.

    Raises:
        InputError: There is no model, it is not whole, or its encoder is made by a callable that the folder names and
            `trust_code` is false: to make it would run code that the folder's author chose.
    """
    folder = ResultFolder(path)
    folder.require("model", "`stray train RECIPE --folds none` writes one, and says where")
    image, projection, patch, facts = folder.read_with("model.json", _settings)
    if isinstance(image, CallableConfig) and not trust_code:
        what = f"its encoder is made by {image.factory}, code that this folder names"
        remedy = "if you trust that code and the author of the folder, add --trust-code"
        raise InputError(Problem(storage.join(folder.path, "model.json"), what, remedy))
    encoder = image_coder(image, projection)
    state = folder.read_weights("encoder.pt")
    folder.read_with("encoder.pt", lambda _: encoder.load_state_dict(state))
    probe = folder.read_with("probe.npz", Probe.from_bytes) if folder.facts().get("probe") else None
    return TrainedModel(encoder.eval().to(memory_format=torch.channels_last), probe, patch, facts)


def _settings(content: bytes) -> tuple[ImageConfig, ProjectionConfig | None, PatchConfig, dict[str, Any]]:
    """Return image encoder, projection, patches and facts of model.json."""
    tree = json.loads(content)
    return (
        TypeAdapter(ImageConfig).validate_python(tree["image"]),
        # Folders of earlier versions have no entry for heads.
        TypeAdapter(ProjectionConfig | None).validate_python(tree.get("projection")),
        TypeAdapter(PatchConfig).validate_python(tree["patch"]),
        dict(tree["facts"]),
    )


def check_patches(model: TrainedModel, patch: PatchConfig, dataset: str) -> None:
    """Raise InputError when a dataset's patches are of another size than those that the model was trained on."""
    if (patch.size_um, patch.size_px) != (model.patch.size_um, model.patch.size_px):
        what = f"patches of {patch.size_um:g} um at {patch.size_px} px; the model was trained on "
        what += f"{model.patch.size_um:g} um at {model.patch.size_px} px"
        remedy = f"ingest with --patch-um {model.patch.size_um:g} --patch-px {model.patch.size_px}"
        raise InputError(Problem(dataset, what, remedy))
