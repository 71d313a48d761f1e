"""A cluster whose CPUs another job holds: the wait is said with the holder's name, given up, and over when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from stray.config import RunConfig
from stray.errors import InputError
from stray.on_ray import waiting
from stray.on_ray.assignment import Assignment
from stray.on_ray.data import Placed
from stray.on_ray.events import listen
from stray.on_ray.pool import fit
from stray.on_ray.resources import SlotPlan
from stray.on_ray.session import SessionInfo
from stray.on_ray.waiting import Need, anything_runs, patience, patiently, running
from tests.support.small_cohort import small_cell, small_dataset, small_recipe

HOLD = """
import sys, time
import ray

@ray.remote(num_cpus=2)
class Holder:
    def ready(self):
        return True

if __name__ == "__main__":
    ray.init(address=sys.argv[1], log_to_driver=False)
    holder = Holder.remote()
    ray.get(holder.ready.remote())
    print("held", flush=True)
    time.sleep(300)
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def holder(ray_session: SessionInfo, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another job, which holds both CPUs."""
    script = tmp_path / "hold.py"
    script.write_text(HOLD, encoding="utf-8")
    command = [sys.executable, str(script), ray_session.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        try:
            while "held" not in (line := process.stdout.readline()):
                assert line, "the other job ended"
            yield process
        finally:
            process.kill()


@ray.remote(num_cpus=1)
def work() -> bool:
    with running():
        return anything_runs()


def test_a_wait_for_what_another_job_holds(holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_S", 2.0)
    said: list[str] = []
    task = work.remote()
    with patience(0.1, said.append), pytest.raises(InputError) as caught:
        patiently(lambda: ray.get(task), Need("the test", {"CPU": 1}))
    assert len(said) == 1
    for text in (said[0], str(caught.value)):
        assert "free: 0 CPUs of 2 CPUs" in text
        assert f"hold.py {ray.get_runtime_context().gcs_address}`, process {holder.pid} on" in text
        assert "2 CPUs held by" in text
    assert not anything_runs()
    # The remedy: what holds the CPUs ends.
    holder.kill()
    with patience(1.0, said.append):
        assert patiently(lambda: ray.get(task), Need("the test", {"CPU": 1})), "the task counted itself as running"
    assert not anything_runs()


def test_a_worker_group_waits_for_what_another_job_holds(
    holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(waiting, "FIRST_S", 2.0)
    dataset = small_dataset(tmp_path)
    stage = small_cell(small_recipe(tmp_path), dataset, root=str(tmp_path / "runs")).scored.gene
    assignment = Assignment(stage=stage, placed=Placed(dataset), title="gene")

    def train() -> None:
        with listen(lambda event: None) as events:
            fit(
                [assignment],
                plan=SlotPlan(1, 2, 1),
                run=RunConfig(max_failures=0),
                root=str(tmp_path),
                events=events,
            )

    said: list[str] = []
    with patience(0.2, said.append), pytest.raises(InputError) as caught:
        train()
    assert len(said) == 1
    for text in (said[0], str(caught.value)):
        assert "2 workers" in text
        assert f"process {holder.pid} on" in text
    assert "run.wait_minutes" in str(caught.value)
