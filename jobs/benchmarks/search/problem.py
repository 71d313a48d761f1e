"""A synthetic score over the space of the recipe `search`, and learning curves that end at it."""

from __future__ import annotations

import math

import optuna

from stray.config import Recipe
from stray.experiment.space import SearchSpace, Settings
from stray.noise import numpy_generator

BEST: dict[str, float] = {
    "contrastive.losses.clip.weight": 0.5,
    "contrastive.losses.smoothed.weight": 0.3,
    "contrastive.losses.guided.weight": 0.2,
    "contrastive.losses.expression.weight": 0.0,
    "contrastive.losses.clip.temperature": 0.06,
    "contrastive.losses.smoothed.temperature": 0.15,
    "contrastive.optim.lr": 3e-3,
}
"""The best settings; the others do not matter."""
TOP, REGION, CHANCE = 0.85, 0.83, 0.25
"""Score of the best settings, lowest score of the best region, and score before the first epoch."""
NOISE = 0.01
"""Standard deviation of a measured score."""
EPOCHS, RATE = 27, 0.2
"""Epochs of a whole trial, and the rate at which a curve approaches its end at the best learning rate."""


def score(settings: Settings) -> float:
    """Return the true score: `TOP` less a quadratic loss in the weights and in the logarithms of the other settings."""
    loss = 0.0
    for path, best in BEST.items():
        value = settings.get(path)
        if value is None:
            continue
        if path.endswith("weight"):
            loss += 0.5 * (value - best) ** 2
        else:
            loss += 0.1 * math.log10(value / best) ** 2 * (3 if path.endswith("lr") else 1)
    # A loss that is left out misses what its temperature could have won.
    left_out = sum(path.endswith("temperature") and path not in settings for path in BEST)
    return TOP - loss - 0.02 * left_out


def measured(settings: Settings, epoch: int, seed: int, number: int) -> float:
    """Return the score that a trial measures after `epoch` epochs: an exponential approach to its true score, slower at
    low learning rates, with noise keyed by (seed, number, epoch).
    """
    rate = RATE * min(1.0, math.sqrt(settings["contrastive.optim.lr"] / BEST["contrastive.optim.lr"]))
    left = math.exp(-rate * epoch) if epoch < EPOCHS else 0.0
    true = score(settings) - (score(settings) - CHANCE) * left
    return true + NOISE * float(numpy_generator(seed, "measured", number, epoch).normal())


def share_of_space(recipe: Recipe, draws: int = 20_000) -> float:
    """Return the share of random points that lie in the best region."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SearchSpace.of(recipe)
    return sum(score(space.suggest(study.ask())) >= REGION for _ in range(draws)) / draws
