"""Errors of the input: every problem at once, each with its place and its remedy."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# User information of an address. The second form: a password that holds `/`, `?` or `#` as they are (`:5000/` is a
# port). The third: secrets in a query, as object stores and databases take them.
_USER = re.compile(r"""(?<=://)[^\s/?#'"<>]*@|(?<=://)[^\s/@:'"<>]+:(?!\d+(?:[/?#,;]|$))[^\s@'"<>]*@""")
_QUERY = re.compile(
    r"""(?i)([?&;](?:[\w.-]*(?:password|passwd|pwd|secret|token|signature|credential)[\w.-]*|user|access_?key(?:_?id)?|"""
    r"""api_?key|sig)=)[^&;\s'"<>]+"""
)


def without_secrets(text: str) -> str:
    """Return `text` with the user information cut from every address in it (`http://user:password@host` becomes
    `http://host`) and the values of secrets in queries replaced by `***`.

    For everything that is shown, logged or stored. An address that is read back takes its secrets from the environment.
    """
    if "://" not in text:
        return text
    while (cut := _USER.sub("", text)) != text:
        text = cut
    return _QUERY.sub(r"\1***", text)


@dataclass(frozen=True)
class Problem:
    """One fault of the user's input."""

    place: str
    """Place of the fault: a file, a dotted recipe path, a section, a row."""
    what: str
    """The fault, with the value that was found."""
    remedy: str = ""
    """The remedy."""

    def __post_init__(self) -> None:
        for name in ("place", "what", "remedy"):
            object.__setattr__(self, name, without_secrets(getattr(self, name)))

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


class NotFiniteError(InputError, FloatingPointError):
    """The loss or a gradient of a step is not finite. The settings or the spots are at fault, so it is shown like any
    other fault of the input; the same step would fail again, so nothing tries it again.
    """

    def __init__(self, problem: Problem, epoch: int, checkpoint: str | None = None, step: int = 0) -> None:
        """`epoch` is the number of whole epochs in the last good checkpoint and `step` that of the next one's steps,
        both 0 where there is none; `checkpoint` its place, None where that is not known.
        """
        self.problem, self.epoch, self.checkpoint, self.step = problem, epoch, checkpoint, step
        kept = "no checkpoint was written before"
        if epoch or step:
            where = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
            kept = f"the last good checkpoint is that after {where}"
        place = f" ({checkpoint})" if (epoch or step) and checkpoint else ""
        super().__init__(Problem(problem.place, f"{problem.what}; {kept}{place}", problem.remedy))

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[Problem, int, str | None, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return type(self), (self.problem, self.epoch, self.checkpoint, self.step)

    def at(self, checkpoint: str) -> NotFiniteError:
        """Return the same once the place of the checkpoint is known."""
        return NotFiniteError(self.problem, self.epoch, checkpoint, self.step)


class CheckpointWriteError(InputError, OSError):
    """A checkpoint could not be written. Its storage is at fault, so it is shown like any other fault of the input; the
    next one could not be written either, so nothing tries it again.
    """

    def __init__(self, problem: Problem) -> None:
        InputError.__init__(self, problem)

    def __reduce__(self) -> tuple[type[CheckpointWriteError], tuple[Problem]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return type(self), (self.problems[0],)


class RunError(InputError):
    """Runs that failed for good, each with its error; the other runs went on to their end."""


def raise_if_any(problems: list[Problem]) -> None:
    """Raise one `InputError` with all of `problems`, or return when there are none."""
    if problems:
        raise InputError(problems)


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, and all that it was raised from or that Ray wraps in it, but not what was handled meanwhile."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [getattr(current, name, None) for name in ("__cause__", "cause", "controller_failure")]
        queue += list(getattr(current, "worker_failures", {}).values())


def input_fault(error: BaseException) -> InputError | None:
    """Return what to tell a user of `error`: the InputError behind it, or that a disk is full or a place not theirs;
    None for any other error.
    """
    for one in behind(error):
        if isinstance(one, InputError):
            return one
        if not isinstance(one, OSError):
            continue
        place = str(one.filename or "the disk")
        if one.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room there, and run the same command again: it goes on where this one stopped"
            return InputError(Problem(place, one.strerror or str(one), remedy))
        if one.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "name a place that you may read and write, or change its permissions"
            return InputError(Problem(place, one.strerror or str(one), remedy))
    return None
