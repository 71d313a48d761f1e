"""What stray raises when its input is at fault: every problem at once, each with its place and its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what the user gave."""

    place: str
    """Where: a file, a dotted recipe path, a section, a row."""
    what: str
    """What is wrong there, with the value that was found."""
    remedy: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        text = f"{self.place}: {self.what}"
        return f"{text}\n    remedy: {self.remedy}" if self.remedy else text


class InputError(Exception):
    """The input cannot be used. Carries every problem found; the command line prints them and exits with code 2."""

    def __init__(self, problems: Iterable[Problem] | Problem) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem, ...]]]:
        # Workers raise it in other processes: it must survive pickling with its problems intact.
        return type(self), (self.problems,)


def raise_if_any(problems: list[Problem]) -> None:
    """Raise one `InputError` with all of `problems`, or return when there are none."""
    if problems:
        raise InputError(problems)
