"""What went wrong, found again behind the classes in which Ray wraps it."""

from __future__ import annotations

import errno

from stray.errors import InputError, NotKeptError, Problem, behind


def input_error(error: BaseException | None) -> InputError | None:
    """The InputError that a task or worker raised, if one is behind `error`."""
    return next((one for one in behind(error) if isinstance(one, InputError)), None)


def full_storage(error: BaseException | None, place: str) -> NotKeptError | None:
    """What to say of a storage at `place` that took no more, if that is behind `error`."""
    for one in behind(error):
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room there, and run the same command again: it goes on from the last whole checkpoint"
            return NotKeptError(Problem(place, str(one), remedy))
    return None
