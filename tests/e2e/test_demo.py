"""`stray demo` as a user runs it, made short by `--set`; and Ctrl-C in the middle of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHORT = [
    "gene.epochs=3",
    "contrastive.epochs=1",
    "search.trials=2",
    "search.set.contrastive.epochs=1",
    "ingest.patch.size_px=32",
    "eval.bootstrap=20",
]


def demo(folder: Path, *changes: str) -> list[str]:
    sets = [word for change in (*SHORT, *changes) for word in ("--set", change)]
    return [sys.executable, "-m", "stray", "demo", "--out", str(folder / "demo"), *sets]


def test_ctrl_c_ends_the_demo_leaves_no_process_and_the_same_command_goes_on(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    log = tmp_path / "log"
    with log.open("w") as out:
        first = subprocess.Popen(demo(tmp_path), stdout=out, stderr=out, env=environment, start_new_session=True)
        deadline = time.monotonic() + 400
        while "untrained  done" not in log.read_text():
            assert first.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        children = psutil.Process(first.pid).children(recursive=True)
        assert children
        first.send_signal(signal.SIGINT)
        code = first.wait(timeout=180)
    assert code == 130, log.read_text()
    assert "stray: interrupted" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert psutil.wait_procs(children, timeout=60)[1] == []

    second = subprocess.run(demo(tmp_path), capture_output=True, text=True, env=environment, check=False)
    assert second.returncode == 0, second.stderr
    assert "held out P5, seed 0: gene stage" not in second.stderr  # it was done
    for text in ("majority class", "untrained", "clip_mlp", "clip_scvi", "Trials, best first", "mlflow.db"):
        assert text in second.stdout
    page = tmp_path / "demo" / "comparison-0.html"
    assert page.stat().st_size > 10_000
    # Without a terminal there is no escape sequence and no line that is drawn over.
    assert "\x1b" not in second.stdout + second.stderr
    assert "\r" not in second.stdout + second.stderr
