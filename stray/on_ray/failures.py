"""Causes of failures, found behind the classes in which Ray wraps them."""

from __future__ import annotations

import errno

from stray.errors import CheckpointWriteError, InputError, Problem, behind


def input_error(error: BaseException | None) -> InputError | None:
    """Return the InputError that a task or worker raised, if it caused `error`."""
    return next((one for one in behind(error) if isinstance(one, InputError)), None)


def full_storage(error: BaseException | None, place: str) -> CheckpointWriteError | None:
    """Return the problem of the storage at `place`, if full storage caused `error`."""
    for one in behind(error):
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room there, and run the same command again: it continues from the last complete checkpoint"
            return CheckpointWriteError(Problem(place, str(one), remedy))
    return None
