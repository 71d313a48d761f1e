"""Image encoders, and the part of them that the contrastive stage trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class TorchvisionConfig:
    """An image encoder from torchvision, without its classifier."""

    kind: Literal["torchvision"] = "torchvision"
    name: str = "resnet18"
    """Name of a torchvision classification model (resnet18, convnext_tiny, swin_t, vit_b_16, ...)."""
    weights: str = "none"
    """`none` (random), `DEFAULT` (torchvision downloads its best), or the path of a state_dict file."""
    size_px: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels to which patches are resized; null: no resizing, except for models with a fixed input size (ViT,
    MaxViT).
    """


@dataclass(frozen=True, kw_only=True)
class CallableConfig:
    """Any image encoder: what `factory` returns when it is called with `options`, such as a model of timm or a
    pathology foundation model. Its own `preprocess`, where it has one, is used instead of `mean`, `std` and `size_px`.
    """

    kind: Literal["callable"] = "callable"
    factory: str
    """`package.module:callable`, importable on every worker. Called with `options` it gives a torch.nn.Module from
    pictures (n, 3, H, W) to features (n, F).
    """
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the factory."""
    restore_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments laid over `options` where the weights come from a folder of stray, such as {pretrained: false}:
    nothing is downloaded to be replaced.
    """
    weights: str = "none"
    """`none` (as the factory made them), or the path of a state_dict file."""
    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue, in [0, 1], that is subtracted; null: that of ImageNet."""
    std: tuple[float, float, float] | None = None
    """Standard deviation by which they are divided; null: that of ImageNet."""
    size_px: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels to which patches are resized; null: no resizing."""


ImageConfig = Annotated[TorchvisionConfig | CallableConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class TrainableAllConfig:
    """The whole image encoder is trained."""

    kind: Literal["all"] = "all"


@dataclass(frozen=True, kw_only=True)
class TrainableLastStageConfig:
    """The last stage of the image encoder is trained, with what follows it (layer4 of a ResNet, the last block of a
    ViT); below it even the statistics of batch norm stay.
    """

    kind: Literal["last_stage"] = "last_stage"


@dataclass(frozen=True, kw_only=True)
class TrainableAdaptersConfig:
    """Low-rank changes of every linear and convolution layer are trained (LoRA, Hu et al. 2021), all else stays. They
    start at no change, and are folded into the weights when training has ended.
    """

    kind: Literal["adapters"] = "adapters"
    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of each change."""
    alpha: Annotated[float, Field(gt=0)] = 8.0
    """The change is multiplied by alpha / rank."""


@dataclass(frozen=True, kw_only=True)
class TrainableNoneConfig:
    """Frozen image encoder: its features are computed once, and only the projection head is trained. The stage keeps,
    scores and embeds with the encoder and this head; its codes have unit length in the shared space.
    """

    kind: Literal["none"] = "none"
    cached_views: Annotated[int, Field(ge=0)] = 0
    """Augmented views per patch whose features are cached; each epoch draws one of them for every spot. 0: the patch
    without augmentation.
    """


TrainableConfig = Annotated[
    TrainableAllConfig | TrainableLastStageConfig | TrainableAdaptersConfig | TrainableNoneConfig,
    Field(discriminator="kind"),
]
