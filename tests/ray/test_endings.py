"""SIGTERM and Ctrl-C to a driver whose workers train: its runs closed, no process left, in bounded time."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stray.track.mlflow_reader import MlflowReader

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("endings")
    subprocess.run(
        [sys.executable, "-m", "stray", "ingest", f"{found}/dataset", "--recipe", "smoke"],
        check=True,
        cwd=found,
        capture_output=True,
    )
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A tracking server: its address and its process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    with subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield uri, process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def train(folder: Path, name: str, *sets: str) -> subprocess.Popen:
    """A training that does not end by itself while a test waits."""
    values = [f"dataset={folder}/dataset", f"output={folder}/{name}", "gene.epochs=20000", *sets]
    words = [word for value in values for word in ("--set", value)]
    command = [sys.executable, "-m", "stray", "train", "smoke", *words]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def until_it_trains(driver: subprocess.Popen) -> list[psutil.Process]:
    """Wait for the first epoch's line; the processes that there are then."""
    assert driver.stderr is not None
    for line in driver.stderr:
        if "gene stage" in line and "/20000" in line:
            return psutil.Process(driver.pid).children(recursive=True)
    raise AssertionError("it ended before it trained")


def assert_gone(processes: list[psutil.Process]) -> None:
    assert processes
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive


def end(folder: Path, name: str, *signals: int) -> int:
    """Send signals to a driver while its workers train, assert that it leaves nothing; returns its exit code."""
    driver = train(folder, name)
    processes = until_it_trains(driver)
    time.sleep(secrets.randbelow(20) / 10)
    for number in signals:
        driver.send_signal(number)
        time.sleep(0.3)
    _, shown = driver.communicate(timeout=60)
    assert_gone(processes)
    assert "Traceback" not in shown
    runs = MlflowReader(f"sqlite:///{folder}/{name}/mlflow.db", "smoke").runs()
    assert {run.status for run in runs} == {"KILLED"}
    return driver.returncode


def test_a_driver_that_trains_ends_with_143_closes_its_runs_and_leaves_nothing(folder: Path) -> None:
    # Whoever sends it twice does not break off the end.
    assert end(folder, "killed", signal.SIGTERM, signal.SIGTERM) == 143


def test_ctrl_c_ends_a_driver_that_trains_with_130_closes_its_runs_and_leaves_nothing(folder: Path) -> None:
    assert end(folder, "interrupted", signal.SIGINT) == 130


def test_so_does_one_whose_tracking_server_hangs(folder: Path, server: tuple[str, int]) -> None:
    uri, group = server
    driver = train(folder, "hanging", f"track.uri={uri}")
    processes = until_it_trains(driver)
    os.killpg(group, signal.SIGSTOP)
    time.sleep(2)
    driver.send_signal(signal.SIGTERM)
    _, shown = driver.communicate(timeout=60)
    assert driver.returncode == 143, shown
    assert_gone(processes)
    kept = (folder / "hanging" / "mlflow-unsent").rglob("items.jsonl")
    assert any(file.stat().st_size for file in kept), "what the server did not take is kept"
