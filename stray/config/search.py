"""The hyperparameter search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from stray.config.samplers import SamplerConfig, TpeSamplerConfig
from stray.config.schedulers import AshaSchedulerConfig, SchedulerConfig
from stray.config.search_space import ChoiceConfig, DistributionConfig, LogUniformConfig


def _default_space() -> dict[str, DistributionConfig]:
    return {
        "contrastive.losses.clip.temperature": LogUniformConfig(low=0.02, high=0.5),
        "contrastive.optim.lr": LogUniformConfig(low=1e-4, high=3e-3),
        "contrastive.projection.size": ChoiceConfig(values=(32, 64, 128, 256)),
    }


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Search with Optuna and Ray Tune by the probe's balanced accuracy on inner validation patients."""

    method: str | None = None
    """Method to tune; null: the last method of the recipe."""
    space: dict[str, DistributionConfig] = field(default_factory=_default_space)
    """Dotted recipe path to distribution; the key of a simplex is a name of your choice."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of every trial that do not enter the best recipe, such as fewer epochs."""
    trials: Annotated[int, Field(ge=1)] = 20
    """Number of trials."""
    held_out: tuple[str, ...] = ()
    """Patients that no trial sees, so that a later comparison on them is unbiased."""
    inner_folds: Annotated[int, Field(ge=1)] = 3
    """Number of inner validation patients. Each judges a training without it, panel and gene stage included, and a
    trial's score is the mean over them; fewer where fewer can be spared. 1: one training a trial, and a noisy score.
    """
    validation: tuple[str, ...] = ()
    """The inner validation patients by name, instead of `inner_folds`; empty: those with the most classes."""
    seeds: tuple[int, ...] = ()
    """Seeds that every trial is repeated with, its score the mean over them; empty: the recipe's first seed."""
    scheduler: SchedulerConfig = field(default_factory=AshaSchedulerConfig)
    """Scheduler that stops trials which fall behind."""
    judge_every: Annotated[int, Field(ge=1)] | None = None
    """Epochs of the contrastive stage between two judgements of a running trial; null: a ninth of its epochs."""
    judge_spots: Annotated[int, Field(ge=2)] = 1024
    """Labelled spots of the training patients that a running trial is judged with, and at most as many of the inner
    validation patient: a fixed sample. A finished trial is judged with all.
    """
    chosen_on: tuple[str, ...] = ()
    """Patients on whose scores the settings of this recipe were selected. `stray search` writes it to best.yaml, and
    `stray compare` marks scores on them, which are optimistic."""
    objectives: tuple[Literal["score", "hours"], ...] = ("score",)
    """Objectives. score: the mean balanced accuracy on the inner validation patients, maximised. hours: the device
    hours of a trial's contrastive trainings, minimised; with both, no trial is stopped early, the best recipe is that
    with the best score, and the Pareto front is reported.
    """
    final: bool = True
    """After the search, train the best settings and the recipe's own without the patients of `held_out`, and compare
    them on these patients; nothing where `held_out` is empty.
    """
    seed: int = 0
    """Seed of the sampler."""
    sampler: SamplerConfig = field(default_factory=TpeSamplerConfig)
    """Sampler that proposes the trials."""
    storage: str | None = None
    """Store of the study, which `optuna-dashboard` opens while the search runs: `sqlite:///PATH/search.db`, the address
    of a database server, or the path of a journal file; null: search.db beside the results.
    """
    start_from: tuple[str, ...] = ()
    """Earlier searches whose best settings are tried after the recipe's own: paths of best.yaml files, studies as
    STORAGE#NAME, or experiments of the tracking store as mlflow:NAME.
    """
    max_concurrent: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Trials at a time; auto: as many as fit on the cluster."""
