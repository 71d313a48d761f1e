"""What holds for every test: no setting of the developer's reaches it, and it reaches nothing of the developer's."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.order import ALONE, SHARED, group, rank

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, and mark the tests beside which nothing else may run."""
    items.sort(key=lambda item: rank(item.nodeid))  # stable: files and tests keep their order otherwise
    for item in items:
        if item.nodeid.partition("::")[0] in ALONE and item.get_closest_marker("beside") is None:
            item.add_marker("alone")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Give whole groups of files to a process: those that share a session of Ray, and every other file by itself."""
    from xdist.scheduler import LoadFileScheduling

    class ByGroup(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return ByGroup(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what no encoding can carry: pytest-xdist sends what a test printed to the process that reports."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


_kept = False
"""Whether the next test shares the session of Ray."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Look whether the session of Ray is wanted again, before the fixtures of a module end."""
    global _kept
    _kept = (
        nextitem is not None
        and group(nextitem.nodeid) == group(item.nodeid) == SHARED
        and "ray_session" in getattr(nextitem, "fixturenames", ())
    )


@pytest.fixture(scope="module")
def ray_session() -> Iterator[SessionInfo]:
    """A local Ray of two CPUs and a small object store; the files of `tests.support.order.SESSION` share one."""
    from stray.on_ray import session

    yield session.start(num_cpus=2, object_store_gib=0.3)
    if not _kept:
        session.stop()


def pytest_sessionfinish() -> None:
    """End a session that was kept for a test that is not run any more."""
    if "stray.on_ray.session" in sys.modules:
        from stray.on_ray import session

        session.stop()
