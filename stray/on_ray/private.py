"""Parts of Ray that are not public. No other module imports them; a new version of Ray is checked against this list.

- authentication: a client must bring the cluster's token, and a local cluster must have one that this process can read;
- addresses and folders: refused before Ray waits minutes for them;
- `state`: who holds the CPUs that a wait is for;
- `ray_logging`: what the raylet says on the driver's console;
- `BaseContext`: what `ray.init` returns.
"""

from __future__ import annotations

import re
from typing import Any

from ray import _raylet
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_logging, state
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._private.authentication.authentication_token_setup import (
    AUTH_MODE_ENV_VAR,
    generate_and_save_token,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.ray_constants import RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.services import canonicalize_bootstrap_address
from ray._private.utils import validate_socket_filepath
from ray._private.worker import BaseContext
from ray.experimental import internal_kv

__all__ = [
    "AUTH_MODE_ENV_VAR",
    "RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "AuthenticationTokenLoader",
    "BaseContext",
    "canonicalize_bootstrap_address",
    "generate_and_save_token",
    "generate_new_authentication_token",
    "get_default_ray_temp_dir",
    "hide_worker_count_warnings",
    "internal_kv",
    "maybe_enable_token_auth_if_token_available",
    "state",
    "validate_socket_filepath",
]


def hide_worker_count_warnings() -> None:
    """Keep the raylet's warning of many worker processes off the console: a slot has several that hold no CPU."""
    deduplicator: Any = ray_logging.stdout_deduplicator
    deduplicator.skip_re = re.compile("worker processes have been started on node")


AuthenticationTokenLoader: Any = _raylet.AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue]
"""Reads the token again once it was changed."""
