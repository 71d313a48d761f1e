"""What went wrong, found again behind the classes in which Ray wraps it."""

from __future__ import annotations

from stray.errors import InputError


def input_error(error: BaseException | None) -> InputError | None:
    """The InputError that a task or worker raised, if one is behind `error`."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, InputError):
            return current
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        queue += list(getattr(current, "worker_failures", {}).values())
    return None
