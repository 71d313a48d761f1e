from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stray.track.mlflow import MlflowStore
from stray.track.mlflow_reader import MlflowReader


class Server:
    """`mlflow server` on loopback, killed with everything that it starts."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        place = [
            "--backend-store-uri",
            f"sqlite:///{self._folder}/mlflow.db",
            "--artifacts-destination",
            str(self._folder),
        ]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), *place]
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1"], stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.3)
        raise TimeoutError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.mark.slow
def test_a_server_that_goes_away_delays_metrics_and_loses_none(server: Server, tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"dots")
    store = MlflowStore(server.uri, "cohort", unsent_folder=str(tmp_path / "unsent"), close_seconds=3)
    parent = store.run("parent")
    parent.metrics({"loss": 9.0}, 0)
    assert store.flush()
    server.kill()

    start = time.monotonic()
    late = store.run("late", parent, {"stray.key": "late"})  # opened while nobody answers
    for epoch in range(50):
        parent.metrics({"loss": 1.0 / (epoch + 1)}, epoch + 1)
        late.metrics({"loss": float(epoch)}, epoch)
    late.artifact(figure)
    assert time.monotonic() - start < 1.0
    assert not store.flush(2)
    server.start()
    assert store.flush(90)
    assert late.run_id

    reader = MlflowReader(server.uri, "cohort")
    assert [value for _, value in reader.history(late.run_id, "loss")] == [float(epoch) for epoch in range(50)]
    run = reader.run(late.run_id)
    assert run is not None
    assert run.parent == parent.run_id
    assert reader.download(late.run_id, "figure.png", tmp_path / "fetched")

    server.kill()
    late.metrics({"loss": -1.0}, 50)
    late.artifact(figure, "again")
    late.close()
    start = time.monotonic()
    kept = store.close()
    assert time.monotonic() - start < 30
    assert kept is not None

    server.start()
    with MlflowStore(server.uri, "cohort", unsent_folder=str(tmp_path / "unsent")) as second:
        assert second.adopted
        assert second.flush()
    assert reader.history(late.run_id, "loss")[-1] == (50, -1.0)
    assert reader.download(late.run_id, "again", tmp_path / "fetched2")
    run = reader.run(late.run_id)
    assert run is not None
    assert run.status == "FINISHED"
