"""Checks before Ray starts: whether a cluster answers at an address, and whether one can start on this machine.

Ray itself waits up to 14 minutes for an address where nobody answers, and shows tracebacks for the rest.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import grpc

from stray.errors import InputError, Problem
from stray.on_ray.private import (
    AUTH_MODE_ENV_VAR,
    AuthenticationTokenLoader,
    canonicalize_bootstrap_address,
    generate_and_save_token,
    generate_new_authentication_token,
    get_default_ray_temp_dir,
    validate_socket_filepath,
)

PROBE_S = 5.0
"""Seconds that an address may take to answer."""

UNSET = "start the cluster, correct RAY_ADDRESS, or unset it to run here"


def check_cluster(address: str) -> None:
    """Raise InputError unless Ray's control service (GCS) answers at `address`: `HOST:PORT`, `ray://HOST:PORT`, or
    `auto`, which stands for the cluster of this machine that Ray knows of.
    """
    if address.startswith(("http://", "https://")):
        remedy = "submit the command to it with `stray submit`, or unset RAY_ADDRESS to run here"
        raise InputError(
            Problem("RAY_ADDRESS", f"{address} is a dashboard, which accepts jobs but not drivers", remedy)
        )
    shown, client = address, address.startswith("ray://")
    if address == "auto":
        try:
            address = canonicalize_bootstrap_address("auto") or ""
        except (ConnectionError, ValueError) as error:
            raise InputError(Problem("RAY_ADDRESS", f"auto: {_first_line(error)}", UNSET)) from None
        shown = f"{address} (auto)"
    host, port = _host_port(address.removeprefix("ray://"), shown)
    silence = _refused(host, port) or ("" if client else _no_gcs(host, port))
    if silence:
        raise InputError(Problem("RAY_ADDRESS", f"no cluster answers at {shown}: {silence}", UNSET))


def check_dashboard(address: str | None, place: str) -> None:
    """Raise InputError when no port answers at a dashboard's `address`; without one Ray looks for it."""
    if not address or "://" not in address:
        return
    parts = urlsplit(address)
    default = 443 if parts.scheme == "https" else 80
    try:
        host, port = parts.hostname or "", parts.port or default
    except ValueError:
        host, port = "", default
    remedy = "give the address of the cluster's dashboard, such as http://127.0.0.1:8265"
    if not host:
        raise InputError(Problem(place, f"{address!r} is not an address", remedy))
    if parts.scheme in ("http", "https") and (silence := _refused(host, port)):
        raise InputError(Problem(place, f"no dashboard answers at {address}: {silence}", remedy))


def _host_port(address: str, shown: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16 or re.search(r"[/\s]", host):
        what = f"{shown!r} is not the address of a cluster"
        remedy = "write HOST:PORT as `ray start` prints it, such as 10.0.0.1:6379, or unset it to run here"
        raise InputError(Problem("RAY_ADDRESS", what, remedy))
    return host, int(port)


def _refused(host: str, port: int) -> str:
    """Return why no connection to the port can be made; empty if one can."""
    try:
        socket.create_connection((host, port), timeout=PROBE_S).close()
    except TimeoutError:
        return f"no answer within {PROBE_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeError:
        return "no such host"
    return ""


def _no_gcs(host: str, port: int) -> str:
    """Return why the listener at the port is not a GCS; empty if it is one, or if only Ray can tell."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return ""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        try:
            ask(b"", timeout=PROBE_S)
        except grpc.RpcError as error:
            code = getattr(error, "code", lambda: None)()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return "the port is open, but what listens there is not Ray's GCS, or hangs"
            if code == grpc.StatusCode.UNIMPLEMENTED:
                return "the port belongs to another service of Ray, not to the GCS (6379 by default)"
    return ""


def check_folder() -> None:
    """Raise InputError when Ray's folder on this machine cannot be used: its path is too long, or not writable."""
    folder = get_default_ray_temp_dir()
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "RAY_TMPDIR")
    remedy = "set RAY_TMPDIR to a short path of a folder that you may write, such as RAY_TMPDIR=/tmp"
    try:
        # Ray's naming: the time with microseconds, and the process id.
        validate_socket_filepath(f"{folder}/session_{'0' * 26}_{os.getpid()}/sockets/plasma_store")
    except OSError:
        what = f"the path {os.path.dirname(folder)} is too long: Ray creates sockets there, and their paths are limited"
        raise InputError(Problem(name, what, remedy)) from None
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(Problem(name, f"{folder} cannot be made: {error.strerror}", remedy)) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(Problem(name, f"{folder} cannot be written", remedy))


def provide_token(set_variable: Callable[[str, str], None]) -> None:
    """Ensure that a local cluster has the token that Ray requires: Ray's file in HOME or, if HOME is not writable,
    RAY_AUTH_TOKEN for this cluster alone.
    """
    if os.environ.get(AUTH_MODE_ENV_VAR, "token").lower() != "token" or "RAY_AUTH_TOKEN" in os.environ:
        return
    loader = AuthenticationTokenLoader.instance()
    with contextlib.suppress(Exception):  # for example a file that only another user may read
        if loader.has_token(ignore_auth_mode=True):
            return
    try:
        generate_and_save_token()
    except (OSError, RuntimeError):  # RuntimeError: HOME is unknown
        set_variable("RAY_AUTH_TOKEN", generate_new_authentication_token())
    loader.reset_cache()


def not_started(error: Exception) -> InputError:
    """Return the error for a local cluster that did not start."""
    text = _first_line(error)
    if "timed out" in text:
        what = f"the local cluster did not start in time: {text}"
        remedy = "the machine is overloaded or short of memory: end other programs, and run the same command again"
    else:
        what = f"no local cluster could be started: {type(error).__name__}: {text}"
        remedy = "correct that, or set RAY_ADDRESS to a running cluster; check `df -h /tmp /dev/shm` and `free -h`"
    return InputError(
        Problem("Ray", what, f"{remedy}; Ray's logs are in {get_default_ray_temp_dir()}/session_latest/logs")
    )


def not_joined(address: str, error: Exception) -> InputError:
    """Return the error for a cluster that answers but cannot be joined."""
    text = _first_line(error)
    remedy = UNSET
    if "token" in text.lower() or "authenti" in text.lower():
        remedy = "put the cluster's token into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH"
    elif "version" in text.lower():
        remedy = "install the same versions of Ray and Python here as there, or `stray submit` the command"
    elif "raylet" in text:
        remedy = "run the command on a node of the cluster, or `stray submit` it"
    return InputError(Problem("RAY_ADDRESS", f"the cluster at {address} cannot be joined: {text}", remedy))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
