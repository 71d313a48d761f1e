"""Image encoders: from uint8 patches to one feature vector each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from stray.config import TorchvisionConfig
from stray.errors import InputError, Problem
from stray.models.norm import globalise

# Channel statistics of ImageNet, which torchvision's weights expect; for random weights they serve as well as any.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

LAYERS = ("layer4", "layer3", "layer2", "layer1")
"""The parts of a ResNet from the last to the first; before them comes the stem."""

_FITTING = "a state_dict of this model, as torchvision saves it"


class ImageEncoder(nn.Module):
    """A torchvision ResNet without its classifier. `dim` is the width of its features."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TorchvisionConfig) -> None:
        """Build with random weights from torch's current generator, or load those that `config` names.

        Raises InputError when torchvision has no such ResNet, or the weights cannot be loaded.
        """
        super().__init__()
        backbone = _build(config)
        self.dim = int(backbone.fc.in_features)
        backbone.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        self.backbone = globalise(backbone)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, patches_nCHW: Tensor) -> Tensor:
        """Floats in [0, 1] or uint8 (n, 3, H, W) to normalised floats."""
        x = patches_nCHW.float() / 255.0 if patches_nCHW.dtype == torch.uint8 else patches_nCHW
        return (x - self.mean) / self.std

    def forward(self, patches_nCHW: Tensor) -> Tensor:
        """Features (n, dim) of patches (n, 3, H, W), uint8 or floats in [0, 1]."""
        return self.backbone(self.preprocess(patches_nCHW))

    def depths(self) -> dict[str, int]:
        """How far each parameter lies below the heads, by its name: 1 for the last layer, to 5 for the stem."""
        parts = {name: name.split(".")[1] for name, _ in self.named_parameters()}
        return {name: LAYERS.index(part) + 1 if part in LAYERS else len(LAYERS) + 1 for name, part in parts.items()}


def _build(config: TorchvisionConfig) -> Any:
    names = [
        n for n in torchvision.models.list_models(torchvision.models) if n.startswith(("resnet", "resnext", "wide_"))
    ]
    if config.name not in names:
        raise InputError(
            Problem(
                "contrastive.image.name",
                f"torchvision has no ResNet called {config.name!r}",
                f"one of {', '.join(names)}",
            )
        )
    place = "contrastive.image.weights"
    if config.weights == "none":
        return torchvision.models.get_model(config.name, weights=None)
    if config.weights == "DEFAULT":
        try:
            return torchvision.models.get_model(config.name, weights="DEFAULT")
        except OSError as error:
            remedy = "download the weights where there is a network and give the file's path"
            raise InputError(
                Problem(place, f"torchvision's weights could not be downloaded ({error})", remedy)
            ) from error
    if not Path(config.weights).is_file():
        raise InputError(Problem(place, f"no file {config.weights!r}", "`none`, `DEFAULT` or the path of a state_dict"))
    model = torchvision.models.get_model(config.name, weights=None)
    state = torch.load(config.weights, map_location="cpu", weights_only=True)
    # A classifier of another number of classes does not matter: it is cut off.
    body = {name: value for name, value in state.items() if not name.startswith("fc.")}
    try:
        missing, unexpected = model.load_state_dict(body, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        raise InputError(Problem(place, f"{config.weights} does not fit {config.name}: {error}", _FITTING)) from error
    if bad := [name for name in (*missing, *unexpected) if not name.startswith("fc.")]:
        what = f"{config.weights} does not fit {config.name}: {', '.join(bad[:5])}"
        raise InputError(Problem(place, what, _FITTING))
    return model
