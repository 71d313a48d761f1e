"""`python jobs/benchmark.py` as a program: its modules are not installed, and Ray's workers import them too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_stage_is_measured_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "benchmark.py"), "stages", "smoke", "--epochs", "2"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for stage in ("gene", "contrastive"):
        assert f"│ {stage} " in done.stdout
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
