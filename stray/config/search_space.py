"""The space of the hyperparameter search: distributions, and conditions between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

Scalar = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class WhenConfig:
    """Condition on another setting; give `above` or `equals`."""

    path: str
    """Dotted path of that setting: another parameter of the space, a weight of a simplex, or a setting of the recipe.
    """
    above: float | None = None
    """The condition holds where the setting is greater than this number."""
    equals: Scalar | tuple[Scalar, ...] | None = None
    """The condition holds where the setting has this value, or one of these."""

    @property
    def complete(self) -> bool:
        """Whether one of `above` and `equals` is given, and not both."""
        return (self.above is None) != (self.equals is None)

    def holds(self, value: Any) -> bool:
        """Return whether `value` of the setting satisfies the condition."""
        if self.above is not None:
            return isinstance(value, int | float) and value > self.above
        return value in (self.equals if isinstance(self.equals, tuple) else (self.equals,))

    def __str__(self) -> str:
        """Return the condition in words."""
        if self.above is not None:
            return f"{self.path} > {self.above:g}"
        if isinstance(self.equals, tuple):
            return f"{self.path} in ({', '.join(map(str, self.equals))})"
        return f"{self.path} = {self.equals}"


@dataclass(frozen=True, kw_only=True)
class _ParameterConfig:
    """Settings of every distribution."""

    when: WhenConfig | None = None
    """Condition under which a value is drawn; elsewhere the recipe's own value holds. null: always drawn."""


@dataclass(frozen=True, kw_only=True)
class LogUniformConfig(_ParameterConfig):
    """Positive real number, log-uniform."""

    kind: Literal["loguniform"] = "loguniform"
    low: Annotated[float, Field(gt=0)]
    """Smallest value."""
    high: Annotated[float, Field(gt=0)]
    """Largest value."""


@dataclass(frozen=True, kw_only=True)
class UniformConfig(_ParameterConfig):
    """Real number, uniform."""

    kind: Literal["uniform"] = "uniform"
    low: float
    """Smallest value."""
    high: float
    """Largest value."""


@dataclass(frozen=True, kw_only=True)
class QuantizedUniformConfig(_ParameterConfig):
    """Real number in equal steps, uniform, both ends included."""

    kind: Literal["quniform"] = "quniform"
    low: float
    """Smallest value."""
    high: float
    """Largest value: `low` and a whole number of steps."""
    step: Annotated[float, Field(gt=0)]
    """Distance between neighbouring values."""


@dataclass(frozen=True, kw_only=True)
class IntUniformConfig(_ParameterConfig):
    """Integer, both ends included."""

    kind: Literal["int"] = "int"
    low: int
    """Smallest value."""
    high: int
    """Largest value: `low` and a whole number of steps."""
    step: Annotated[int, Field(ge=1)] = 1
    """Distance between neighbouring values."""
    log: bool = False
    """Log-uniform instead of uniform; `step` is then 1."""


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig(_ParameterConfig):
    """One of several values."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Scalar, ...], Field(min_length=1)]
    """The values."""


@dataclass(frozen=True, kw_only=True)
class SimplexConfig(_ParameterConfig):
    """Weights that sum to one, uniform on the simplex. Its key in the space is a name of your choice."""

    kind: Literal["simplex"] = "simplex"
    paths: Annotated[tuple[str, ...], Field(min_length=2)]
    """Dotted paths of the weights."""
    low: Annotated[float, Field(ge=0)] = 0.0
    """Smallest weight above 0: a smaller one is set to 0, and the others are scaled to sum to one."""


DistributionConfig = Annotated[
    LogUniformConfig | UniformConfig | QuantizedUniformConfig | IntUniformConfig | ChoiceConfig | SimplexConfig,
    Field(discriminator="kind"),
]
