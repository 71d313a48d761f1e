"""The samplers of the hyperparameter search; each is the sampler of Optuna of that name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class TpeSamplerConfig:
    """Tree-structured Parzen estimator (Bergstra et al. 2011)."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Trials that are drawn at random before there is an estimate."""
    candidates: Annotated[int, Field(ge=1)] = 24
    """Points drawn for each trial, of which the most promising is taken."""
    multivariate: bool = True
    """Model parameters jointly, not each by itself."""
    group: bool = True
    """Model jointly those parameters that occur in the same trials; needs `multivariate`. For spaces with conditions.
    """
    constant_liar: bool = True
    """Count running trials as bad ones, so that concurrent trials do not gather in one place."""


@dataclass(frozen=True, kw_only=True)
class RandomSamplerConfig:
    """Independent random points."""

    kind: Literal["random"] = "random"


@dataclass(frozen=True, kw_only=True)
class QmcSamplerConfig:
    """Quasi-random points, which cover the space evenly; conditional parameters are drawn at random."""

    kind: Literal["qmc"] = "qmc"
    sequence: Literal["sobol", "halton"] = "sobol"
    """The sequence; scrambled by the seed."""


@dataclass(frozen=True, kw_only=True)
class GpSamplerConfig:
    """Gaussian process with expected improvement; for few trials and few parameters without conditions."""

    kind: Literal["gp"] = "gp"
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Trials that are drawn at random before the process is fitted."""


@dataclass(frozen=True, kw_only=True)
class CmaesSamplerConfig:
    """CMA-ES (Hansen and Ostermeier 2001), for numbers; choices and conditional parameters are drawn at random."""

    kind: Literal["cmaes"] = "cmaes"
    startup_trials: Annotated[int, Field(ge=1)] = 1
    """Trials that are drawn at random before the first generation."""
    population: Annotated[int, Field(ge=3)] | None = None
    """Trials of a generation; null: 4 + 3 ln(number of parameters)."""


@dataclass(frozen=True, kw_only=True)
class Nsga2SamplerConfig:
    """NSGA-II, a genetic algorithm for several objectives (Deb et al. 2002)."""

    kind: Literal["nsga2"] = "nsga2"
    population: Annotated[int, Field(ge=2)] = 20
    """Trials of a generation; the first generation is random."""


SamplerConfig = Annotated[
    TpeSamplerConfig
    | RandomSamplerConfig
    | QmcSamplerConfig
    | GpSamplerConfig
    | CmaesSamplerConfig
    | Nsga2SamplerConfig,
    Field(discriminator="kind"),
]
