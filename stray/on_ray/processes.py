"""The processes of a local cluster, found without asking Ray, so that none outlives the command that started them."""

from __future__ import annotations

import contextlib
import os

import psutil

GRACE_S = 3.0
"""How long a process may take to end before it is killed."""


def family(session_folder: str = "") -> set[psutil.Process]:
    """Return Ray's processes that descend from this one, and those that name `session_folder` in their command line:
    agents are orphans once their raylet is gone.
    """
    found = {child for child in psutil.Process().children(recursive=True) if _is_ray(child)}
    if session_folder:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and any(session_folder in word for word in process.cmdline()):
                    found.add(process)
    return found


def end(processes: set[psutil.Process], grace_s: float = GRACE_S) -> None:
    """Wait for `processes` to end, and kill those that do not."""
    _, alive = psutil.wait_procs(list(processes), timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)


def terminate(processes: set[psutil.Process]) -> None:
    """Ask `processes` to end."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()


def _is_ray(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return any("/ray/" in word or word.startswith("ray::") for word in words)
    return False
