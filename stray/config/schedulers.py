"""The schedulers of the hyperparameter search, which stop trials that fall behind; each is the one of Ray Tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class AshaSchedulerConfig:
    """Asynchronous successive halving (Li et al. 2020): at each rung only the best trials go on."""

    kind: Literal["asha"] = "asha"
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """Inverse of the share of trials that go on at a rung, and the ratio of the epochs of two rungs."""
    grace_epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs of the first rung; null: `search.judge_every`."""


@dataclass(frozen=True, kw_only=True)
class HyperbandSchedulerConfig:
    """Asynchronous Hyperband: successive halving in several brackets, each of which begins with a later rung."""

    kind: Literal["hyperband"] = "hyperband"
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """Inverse of the share of trials that go on at a rung, and the ratio of the epochs of two rungs."""
    brackets: Annotated[int, Field(ge=2)] = 3
    """Number of brackets; each begins with the rung after the first of the bracket before."""


@dataclass(frozen=True, kw_only=True)
class MedianSchedulerConfig:
    """Median stopping rule (Golovin et al. 2017): a trial whose best score is below the median of the others' running
    means is stopped.
    """

    kind: Literal["median"] = "median"
    grace_epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs before which no trial is stopped; null: `search.judge_every`."""
    min_trials: Annotated[int, Field(ge=1)] = 3
    """Other trials that must have come as far before one is stopped."""


@dataclass(frozen=True, kw_only=True)
class NoSchedulerConfig:
    """Train every trial to its last epoch."""

    kind: Literal["none"] = "none"


SchedulerConfig = Annotated[
    AshaSchedulerConfig | HyperbandSchedulerConfig | MedianSchedulerConfig | NoSchedulerConfig,
    Field(discriminator="kind"),
]
