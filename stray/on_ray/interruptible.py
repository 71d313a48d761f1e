"""Ctrl-C handling: Ray Train and Tune replace the handler of SIGINT and end the process with exit code 0.

They leave the handler alone in any thread but the main one, so that is where they run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


THREAD = "stray-ray"
"""Name of the threads; one that lives was left behind."""


def interruptible(function: Callable[[], T], meanwhile: Callable[[], None] = lambda: None) -> T:
    """Run `function` in a thread of its own while this one stays open to Ctrl-C; return or raise what it does.

    `meanwhile` is called all the while. On KeyboardInterrupt, or what `meanwhile` raises, the thread is left behind: it
    ends when the session with Ray does, which every verb sees to.
    """
    found: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            found.append(function())
        except BaseException as error:  # re-raised in the waiting thread
            errors.append(error)

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)
        meanwhile()
    if errors:
        raise errors[0]
    return found[0]
