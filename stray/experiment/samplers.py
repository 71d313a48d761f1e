"""Optuna's samplers by their settings, seeded for one trial."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler, RandomSampler

from stray.config import (
    CmaesSamplerConfig,
    GpSamplerConfig,
    Nsga2SamplerConfig,
    QmcSamplerConfig,
    RandomSamplerConfig,
    SamplerConfig,
    TpeSamplerConfig,
)
from stray.noise import key


def sampler_of(config: SamplerConfig, seed: int, number: int) -> BaseSampler:
    """Return the sampler of the trial with this number.

    Its noise is keyed by (seed, number): a search that is continued proposes what it would have proposed without the
    interruption, and repeats no point. What a sampler knows besides, it reads from the trials of the study.
    """
    own, shared = key(seed, "search", number) % 2**32, key(seed, "search") % 2**32
    independent = RandomSampler(seed=own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config:
            case TpeSamplerConfig():
                return optuna.samplers.TPESampler(
                    n_startup_trials=config.startup_trials,
                    n_ei_candidates=config.candidates,
                    multivariate=config.multivariate,
                    group=config.group,
                    constant_liar=config.constant_liar,
                    seed=own,
                )
            case RandomSamplerConfig():
                return independent
            case QmcSamplerConfig():
                # The place in the sequence is kept in the study; another seed would begin another sequence.
                return optuna.samplers.QMCSampler(
                    qmc_type=config.sequence,
                    scramble=True,
                    seed=shared,
                    independent_sampler=independent,
                    warn_independent_sampling=False,
                )
            case GpSamplerConfig():
                return optuna.samplers.GPSampler(
                    n_startup_trials=config.startup_trials,
                    seed=own,
                    independent_sampler=independent,
                    warn_independent_sampling=False,
                )
            case CmaesSamplerConfig():
                return optuna.samplers.CmaEsSampler(
                    n_startup_trials=config.startup_trials,
                    popsize=config.population,
                    seed=own,
                    independent_sampler=independent,
                    warn_independent_sampling=False,
                )
            case Nsga2SamplerConfig():
                return optuna.samplers.NSGAIISampler(population_size=config.population, seed=own)
