"""The processes of a local cluster, found without asking Ray, so that none outlives the command that started them."""

from __future__ import annotations

import contextlib
import os

import psutil

GRACE_S = 3.0
"""Seconds that a process may take to end before it is killed."""


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


def kill_now(session_folder: str = "") -> None:
    """Kill the `family`, raylets last and stopped before: one whose agent dies ends, and Ray's C++ in this process
    then ends it with an exit code of its own.
    """
    raylets = [process for process in family(session_folder) if _name(process) == "raylet"]
    for raylet in raylets:
        with contextlib.suppress(psutil.Error):
            raylet.suspend()
    for process in [*(family(session_folder) - set(raylets)), *raylets]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


def _is_ray(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return any("/ray/" in word or word.startswith("ray::") for word in words)
    return False
