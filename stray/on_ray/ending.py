"""End of the process on SIGTERM: everything unwinds as on Ctrl-C, in bounded time, and nothing is left."""

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
"""Set once SIGTERM has come: what this process started in Ray is then killed rather than asked."""


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


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the clean-up of the first
    leaving.set()
    timer = threading.Timer(CLOSE_S, end_now, [128 + number])
    timer.daemon = True
    timer.start()
    atexit.register(end_now, 128 + number)
    raise SystemExit(128 + number)


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
