"""Points of a search space: drawn from an Optuna trial, and found again for given settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from stray.config import (
    ChoiceConfig,
    DistributionConfig,
    IntUniformConfig,
    LogUniformConfig,
    QuantizedUniformConfig,
    Recipe,
    SimplexConfig,
)
from stray.recipe import flatten, for_method
from stray.recipe.space import drawing_order

Settings = dict[str, Any]
"""Dotted recipe path to value."""

SMALLEST = 1e-9
"""Lower end of the uniform numbers from which the weights of a simplex are made; their logarithm is finite."""


@dataclass(frozen=True)
class SearchSpace:
    """The space of a search, and the settings that hold where a parameter is not drawn."""

    config: Mapping[str, DistributionConfig]
    fixed: Settings
    """Every setting of the tuned method by its path."""

    @classmethod
    def of(cls, recipe: Recipe) -> SearchSpace:
        """Return the space of `recipe.search` for the method that it tunes."""
        return cls(recipe.search.space, flatten(for_method(recipe, recipe.tuned, recipe.search.set)))

    def suggest(self, trial: optuna.trial.BaseTrial) -> Settings:
        """Draw the settings of a trial; a parameter whose condition does not hold is not drawn and left out."""
        drawn: Settings = {}
        for name in drawing_order(self.config):
            if self._is_drawn(name, drawn):
                drawn |= _draw(trial, name, self.config[name])
        return drawn

    def recipe_settings(self) -> Settings:
        """Return the recipe's own values at the paths of the space, as far as they lie in it."""
        return self.settings_of(self.params(self.fixed))

    def params(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the Optuna parameters that give `settings`; those that lie outside the space are left out, and so are
        those that are not drawn beside the others.
        """
        found: dict[str, Any] = {}
        drawn: Settings = {}
        for name in drawing_order(self.config):
            dist = self.config[name]
            if not self._is_drawn(name, drawn):
                continue
            values = _simplex_params(name, dist, settings) if isinstance(dist, SimplexConfig) else _own(name, settings)
            if values and all(
                _contains(kind, values[param]) for param, kind in optuna_distributions(name, dist).items()
            ):
                found |= values
                drawn |= _draw(optuna.trial.FixedTrial(values), name, dist)
        return found

    def settings_of(self, params: Mapping[str, Any]) -> Settings:
        """Return the settings that Optuna parameters give; those without a parameter are left out."""
        drawn: Settings = {}
        for name in drawing_order(self.config):
            if set(optuna_distributions(name, self.config[name])) <= params.keys() and self._is_drawn(name, drawn):
                drawn |= _draw(optuna.trial.FixedTrial(dict(params)), name, self.config[name])
        return drawn

    def _is_drawn(self, name: str, drawn: Mapping[str, Any]) -> bool:
        when = self.config[name].when
        return when is None or when.holds(drawn.get(when.path, self.fixed.get(when.path)))


def optuna_distributions(name: str, dist: DistributionConfig) -> dict[str, BaseDistribution]:
    """Return the Optuna parameters of one parameter of the space, with their distributions."""
    match dist:
        case LogUniformConfig():
            return {name: FloatDistribution(dist.low, dist.high, log=True)}
        case QuantizedUniformConfig():
            return {name: FloatDistribution(dist.low, dist.high, step=dist.step)}
        case IntUniformConfig():
            return {name: IntDistribution(dist.low, dist.high, log=dist.log, step=dist.step)}
        case ChoiceConfig():
            return {name: CategoricalDistribution(dist.values)}
        case SimplexConfig():
            return {f"{name}: {path}": FloatDistribution(SMALLEST, 1.0) for path in dist.paths}
    return {name: FloatDistribution(dist.low, dist.high)}


def simplex_weights(uniforms: Mapping[str, float], low: float) -> dict[str, float]:
    """Return weights that sum to one, uniform on the simplex (a flat Dirichlet distribution) for uniform numbers in
    (0, 1]: `-log u` is exponential, and exponentials over their sum are Dirichlet(1, ..., 1) (Devroye 1986,
    Non-Uniform Random Variate Generation, chapter XI.4; so does Optuna's FAQ).

    A weight below `low` becomes 0, and the others are scaled to sum to one.
    """
    parts = {path: max(0.0, -math.log(u)) for path, u in uniforms.items()}
    if sum(parts.values()) == 0:
        parts = dict.fromkeys(parts, 1.0)
    total = sum(parts.values())
    kept = {path: part if part >= low * total else 0.0 for path, part in parts.items()}
    total = sum(kept.values())
    return {path: part / total for path, part in kept.items()}


def _draw(trial: optuna.trial.BaseTrial, name: str, dist: DistributionConfig) -> Settings:
    values = {param: _suggest(trial, param, kind) for param, kind in optuna_distributions(name, dist).items()}
    if isinstance(dist, SimplexConfig):
        return simplex_weights(dict(zip(dist.paths, values.values(), strict=True)), dist.low)
    return values


def _suggest(trial: optuna.trial.BaseTrial, param: str, kind: BaseDistribution) -> Any:
    match kind:
        case FloatDistribution():
            return trial.suggest_float(param, kind.low, kind.high, step=kind.step, log=kind.log)
        case IntDistribution():
            return trial.suggest_int(param, kind.low, kind.high, step=kind.step, log=kind.log)
        case CategoricalDistribution():
            return trial.suggest_categorical(param, kind.choices)
    raise TypeError(type(kind))


def _own(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings[name]} if name in settings else {}


def _simplex_params(name: str, dist: SimplexConfig, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the uniform numbers of given weights; empty where these do not lie on the simplex."""
    weights = [settings.get(path) for path in dist.paths]
    numbers = [float(weight) for weight in weights if isinstance(weight, int | float) and weight >= 0]
    if len(numbers) < len(weights) or abs(sum(numbers) - 1) > 1e-9:
        return {}
    if any(0 < number < dist.low for number in numbers):
        return {}
    # The scale is free. This one is the mean of the sum of as many exponentials, where most draws lie.
    return {f"{name}: {path}": math.exp(-n * len(numbers)) for path, n in zip(dist.paths, numbers, strict=True)}


def _contains(kind: BaseDistribution, value: Any) -> bool:
    if isinstance(kind, CategoricalDistribution):
        return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in kind.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (isinstance(kind, FloatDistribution) or float(value).is_integer()) and kind._contains(float(value))
