"""The hyperparameter search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

Scalar = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class LogUniformConfig:
    """A positive real, uniform in its logarithm."""

    kind: Literal["loguniform"] = "loguniform"
    low: Annotated[float, Field(gt=0)]
    """Smallest value."""
    high: Annotated[float, Field(gt=0)]
    """Largest value."""


@dataclass(frozen=True, kw_only=True)
class UniformConfig:
    """A real."""

    kind: Literal["uniform"] = "uniform"
    low: float
    """Smallest value."""
    high: float
    """Largest value."""


@dataclass(frozen=True, kw_only=True)
class IntUniformConfig:
    """A whole number, both ends included."""

    kind: Literal["int"] = "int"
    low: int
    """Smallest value."""
    high: int
    """Largest value."""


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """One of several values."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Scalar, ...], Field(min_length=1)]
    """The values."""


DistributionConfig = Annotated[
    LogUniformConfig | UniformConfig | IntUniformConfig | ChoiceConfig, Field(discriminator="kind")
]


def _default_space() -> dict[str, DistributionConfig]:
    return {
        "contrastive.losses.clip.temperature": LogUniformConfig(low=0.02, high=0.5),
        "contrastive.optim.lr": LogUniformConfig(low=1e-4, high=3e-3),
        "contrastive.projection.size": ChoiceConfig(values=(32, 64, 128, 256)),
    }


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Optuna proposes, Ray Tune runs, the probe's balanced accuracy on inner validation patients decides."""

    method: str | None = None
    """The method that is tuned; the recipe's last one where it is not given."""
    space: dict[str, DistributionConfig] = field(default_factory=_default_space)
    """Dotted recipe path to distribution."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides that hold in every trial and not in the recipe that is found (fewer epochs, say)."""
    trials: Annotated[int, Field(ge=1)] = 20
    """Number of trials."""
    held_out: tuple[str, ...] = ()
    """Patients that the search never sees, so that a later comparison on them is honest."""
    validation: tuple[str, ...] = ()
    """Inner validation patients that score a trial; the last labelled training patient where none is given."""
    chosen_on: tuple[str, ...] = ()
    """Patients by whose scores the settings of this recipe were chosen; `stray search` writes it into best.yaml, and
    `stray compare` marks scores on them: they are no estimate of what the settings are worth."""
    seed: int = 0
    """Seed of the sampler."""
    max_concurrent: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Trials at a time; auto: as many as the cluster holds."""
