"""The connection to Ray: an existing cluster, or a local one that ends with the process that started it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

import stray
from stray.errors import InputError
from stray.on_ray.ending import end_on_sigterm, leaving
from stray.on_ray.private import RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE as API_SERVER
from stray.on_ray.private import (
    RAY_JOB_CONFIG_JSON_ENV_VAR,
    BaseContext,
    hide_worker_count_warnings,
    maybe_enable_token_auth_if_token_available,
)
from stray.on_ray.processes import end, family, kill_now
from stray.on_ray.reach import check_cluster, check_folder, not_joined, not_started, provide_token
from stray.on_ray.resources import Resources, SlotPlan, plan_slots, resources
from stray.on_ray.visibility import check_paths_visible

__all__ = [
    "Resources",
    "SessionInfo",
    "SlotPlan",
    "check_paths_visible",
    "in_job",
    "plan_slots",
    "resources",
    "session",
    "start",
    "stop",
]

SETTINGS = {
    # The controller drains one report a poll: at the default of 2 s, twenty reports take 38 s instead of 4.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Send no usage statistics.
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of the driver, its controllers and workers, where the user has not set another value."""

LOCAL_SETTINGS = {
    # This machine is never preempted; the preemption watcher would take a second to start for every worker group.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Environment for the lifetime of a local cluster, in addition."""

GIB = 1024**3

_session: SessionInfo | None = None
_log: logging.FileHandler | None = None
_session_folder = ""
"""Folder of a local cluster that is still to be killed."""
_previous: Any = None
"""Handler of SIGTERM before the session."""
_environment: dict[str, str | None] = {}
"""Environment variables that a local session has changed, as they were before."""


@dataclass(frozen=True)
class SessionInfo:
    """Cluster that the process is connected to."""

    address: str
    """GCS address of the cluster."""
    local: bool
    """Whether this process started the cluster, and `stop` ends it."""
    dashboard: str
    """Address of the dashboard; empty where there is none."""
    logs: str
    """Folder of Ray's logs on this machine; `stray-driver-PID.log` in it holds what Ray tells this process."""
    resources: Resources
    """Resources of the cluster."""


@contextlib.contextmanager
def session(
    *, num_cpus: int | None = None, object_store_gib: float | None = None, packages: Sequence[str] = ()
) -> Iterator[SessionInfo]:
    """Run `start`, and `stop` on every way out, Ctrl-C included. Within another session nothing is started or stopped:
    commands that follow one another share it.
    """
    outer = _session is not None
    info = start(num_cpus=num_cpus, object_store_gib=object_store_gib, packages=packages)
    try:
        yield info
    finally:
        if not outer:
            stop()


def start(
    *, num_cpus: int | None = None, object_store_gib: float | None = None, packages: Sequence[str] = ()
) -> SessionInfo:
    """Connect to the cluster of RAY_ADDRESS or of the submitted job that this is; else start one on this machine.

    A process that is connected already stays so. `num_cpus` and `object_store_gib` shape a local cluster only; the
    object store may grow to a third of the memory, where less is not asked for. `packages` are folders of packages that
    tasks import; like stray they are sent to a cluster that a plain driver joins, while a job brings its own files.
    Raises InputError when the cluster cannot be reached, or the local one cannot start.
    """
    global _session
    if _session is not None:
        return _session
    if ray.is_initialized():
        return _info(local=False, dashboard="")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "")
    local = address in ("", "local") and not in_job()
    address = address or "auto"
    if local:
        check_folder()
    else:
        check_cluster(address)
    try:
        with _own_signals():
            context = _start_local(num_cpus, object_store_gib) if local else _connect(address, packages)
        _session = _info(local=local, dashboard=context.dashboard_url or "")
        _quiet(Path(_session.logs))
    except BaseException as error:
        # Also when interrupted half-way: end what has already started.
        _end(started=local)
        if isinstance(error, InputError) or not isinstance(error, Exception):
            raise
        raise (not_started(error) if local else not_joined(address, error)) from error
    return _session


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Take SIGTERM back from Ray's C++, whose handler ends the process at once and leaves agents running."""
    global _previous
    _previous = end_on_sigterm()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _start_local(num_cpus: int | None, object_store_gib: float | None) -> BaseContext:
    provide_token(_change)
    for name, value in LOCAL_SETTINGS.items():
        _change(name, os.environ.get(name, value))
    # Not Ray's default port, which sessions that start at the same time would compete for.
    dashboard_port = _free_port()
    # Ray's clean-up asks the cluster of the environment, else whichever was last started on this machine, about its own
    # actors: one that is gone keeps every training waiting for 12 s at its end, one that is there says they are dead.
    _change(API_SERVER, f"http://127.0.0.1:{dashboard_port}")
    return ray.init(
        # `local`, because Ray would otherwise join any cluster that happens to run on this machine.
        address="local",
        num_cpus=num_cpus,
        object_store_memory=_object_store_bytes(object_store_gib),
        # Tune's clean-up goes through the dashboard: without it a stopped trial keeps its resources for ever.
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard_port,
        # Discard the output of workers; their errors reach the driver as exceptions.
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _change(name: str, value: str) -> None:
    _environment.setdefault(name, os.environ.get(name))
    os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _connect(address: str, packages: Sequence[str]) -> BaseContext:
    # A job brings its working directory; a plain driver has to send the package to nodes that may lack it.
    # A cluster with a token refuses clients without it, and Ray reads the token only if told to.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    environment = None if in_job() else {"py_modules": [str(Path(stray.__file__).parent), *packages]}
    return ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)


def stop() -> None:
    """End the cluster that `start` started, or leave the one that it joined. Without a session it does nothing."""
    global _log
    if _log is not None:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(_log)
        _log.close()
        _log = None
    if _session is not None:
        _end(started=_session.local)


def _end(*, started: bool) -> None:
    """Leave Ray; where this process `started` it, end every process of it."""
    global _session, _session_folder, _previous
    logs, _session = _session.logs if _session is not None else "", None
    if leaving.is_set():
        # Threads may still be inside Ray, whose C++ aborts the process when it is shut down under them, or ends it with
        # an exit code of its own when the raylet goes: `ending.end_now` kills the cluster as its last act.
        _session_folder = os.path.dirname(logs) if started else ""
    else:
        left = family(os.path.dirname(logs)) if started else set()
        ray.shutdown()
        end(left)
    if _previous is not None and not leaving.is_set() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _previous)
    _previous = None
    for name, value in _environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    _environment.clear()


def kill() -> None:
    """Kill what is left of a cluster that this process started, for a process that ends now."""
    folder = os.path.dirname(_session.logs) if _session is not None and _session.local else _session_folder
    kill_now(folder)


def in_job() -> bool:
    """Return whether this process is the driver of a submitted job."""
    return RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ


_LOGGERS = ("ray", "ray.data")  # Ray's loggers that do not propagate their records to a parent.


def _quiet(folder: Path) -> None:
    """Send Ray's messages to a file; errors stay on the console as well."""
    global _log
    hide_worker_count_warnings()
    # Importing Ray Data sets up its loggers, so it must come before they are changed.
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    with contextlib.suppress(OSError):  # The folder of a joined cluster may belong to another user.
        _log = logging.FileHandler(folder / f"stray-driver-{os.getpid()}.log", delay=True)
        _log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for handler in logger.handlers:
            if type(handler).__name__ == "PlainRayHandler":
                handler.setLevel(logging.ERROR)
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
        if _log is not None:
            logger.addHandler(_log)


def _object_store_bytes(gib: float | None) -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory / 3
    if sys.platform == "linux":
        shared = os.statvfs("/dev/shm")
        # Past the shared memory Ray would fall back to files on disk.
        limit = min(limit, 0.8 * shared.f_bavail * shared.f_frsize)
    # The store allocates only what is put into it: a large limit costs a small cohort nothing.
    return int(max(limit if gib is None else min(gib * GIB, limit), 0.1 * GIB))


def _info(*, local: bool, dashboard: str) -> SessionInfo:
    context = ray.get_runtime_context()
    here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    folder = Path(here["RayletSocketName"]).parent.parent / "logs"
    return SessionInfo(
        address=context.gcs_address, local=local, dashboard=dashboard, logs=str(folder), resources=resources()
    )
