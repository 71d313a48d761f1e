"""What holds for every test: no setting of the developer's reaches it, and it reaches nothing of the developer's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stray.on_ray.session import SessionInfo

# Before anything is imported that reads them. Workers and subprocesses inherit them.
os.environ["MPLBACKEND"] = "Agg"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["COLUMNS"] = "140"
for _name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
    os.environ.pop(_name, None)
# Started in the background of a script, pytest ignores Ctrl-C, and so would the processes whose Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def ray_session() -> Iterator[SessionInfo]:
    """A local Ray of two CPUs and a small object store for the tests of one module."""
    from stray.on_ray.session import session

    with session(num_cpus=2, object_store_gib=0.3) as info:
        yield info
