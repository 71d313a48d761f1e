"""End of the process on SIGTERM and Ctrl-C: everything unwinds, in bounded time, and nothing is left."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

CLOSE_S = 25.0
"""Seconds that the end may take: within the half minute after which clusters send SIGKILL."""

leaving = threading.Event()
"""Set once the process was told to end: its actors and tasks in Ray are then killed, not asked to end."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def end_on_sigterm() -> Any:
    """Make SIGTERM raise SystemExit(143) in the main thread; returns the handler to put back, None where SIGTERM is
    handled already or this is another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None
    signal.signal(signal.SIGTERM, _stop)
    return signal.SIG_DFL


def end_on_interrupt() -> None:
    """Make Ctrl-C end this process in bounded time, and a second one at once, where Python's own handler is in place.

    Ray's C++ may lose the KeyboardInterrupt, and it aborts the process when the session is closed under its threads.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the clean-up of the first
    _leave(128 + number)
    raise SystemExit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, lambda *_: end_now(INTERRUPTED))
    _leave(INTERRUPTED)
    raise KeyboardInterrupt


def _leave(code: int) -> None:
    leaving.set()
    timer = threading.Timer(CLOSE_S, end_now, [code])
    timer.daemon = True
    timer.start()
    atexit.register(end_now, code)


def end_now(code: int) -> None:
    """End this process and the cluster that it started, whatever its threads are doing.

    Ray's C++ aborts the process when the interpreter ends while threads are inside Ray.
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    try:
        if (session := sys.modules.get("stray.on_ray.session")) is not None:
            session.kill()
    finally:
        os._exit(code)
