"""What holds for every test: no setting of the developer's reaches it, and it reaches nothing of the developer's."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
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
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes test at once: one thread each, or they wait for each other's.
    os.environ["OMP_NUM_THREADS"] = "1"
# Started in the background of a script, pytest ignores Ctrl-C, and so would the processes whose Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what no encoding can carry: pytest-xdist sends what a test printed to the process that reports."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="module")
def ray_session() -> Iterator[SessionInfo]:
    """A local Ray of two CPUs and a small object store for the tests of one module."""
    from stray.on_ray.session import session

    with session(num_cpus=2, object_store_gib=0.3) as info:
        yield info
