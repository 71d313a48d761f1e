"""What went wrong, found again behind the classes in which Ray wraps it."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from stray.errors import InputError, NotKeptError, Problem


def input_error(error: BaseException | None) -> InputError | None:
    """The InputError that a task or worker raised, if one is behind `error`."""
    return next((one for one in _behind(error) if isinstance(one, InputError)), None)


def full_storage(error: BaseException | None, place: str) -> NotKeptError | None:
    """What to say of a storage at `place` that took no more, if that is behind `error`."""
    for one in _behind(error):
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room there, and run the same command again: it goes on from the last whole checkpoint"
            return NotKeptError(Problem(place, str(one), remedy))
    return None


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and all that it was raised from or wraps."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [current.__cause__, current.__context__]
        queue += [getattr(current, name, None) for name in ("cause", "controller_failure")]
        queue += list(getattr(current, "worker_failures", {}).values())
