"""Findings of the checks of a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from stray.errors import Problem

Finding = tuple[tuple[str, ...], Problem]
"""The settings that contradict each other, and the problem."""


def finding(place: str, what: str, remedy: str, *others: str) -> Finding:
    """Return a problem at `place`, which rests on `others` too."""
    return (place, *others), Problem(place, what, remedy)


def repeated_in(values: Iterable[object]) -> list[str]:
    """Return the values that occur more than once."""
    return [str(value) for value, times in Counter(values).items() if times > 1]
