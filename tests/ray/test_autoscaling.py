"""A cluster that begins with a head of no CPUs and grows as work asks for it: Ray's autoscaler with its fake nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from stray.cohort.build import build_dataset
from stray.recipe import load_recipe
from stray.track.mlflow_reader import MlflowReader
from tests.ray.test_submit import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
WORKER_CPUS = 1


@dataclass(frozen=True)
class Cluster:
    folder: Path
    environment: dict[str, str]
    temporary: Path

    def processes(self, word: str = "") -> list[psutil.Process]:
        """The processes of this cluster whose command line has `word`."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.temporary) in line and word in line and process.pid != os.getpid():
                found.append(process)
        return found

    def stray(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stray", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("auto")
    port, dashboard = free_port(), free_port()
    # Ray's sockets need a short path.
    temporary = Path("/tmp") / f"stray-auto-{os.getpid()}"
    kind = {"resources": {"CPU": WORKER_CPUS}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 10,
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}"},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": kind,
        },
        "head_node_type": "ray.head.default",
    }
    (folder / "autoscaling.json").write_text(json.dumps(config))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    made = Cluster(folder, {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}, temporary)
    head = subprocess.Popen(
        ["ray", "start", "--head", "--block", "--num-cpus=0", f"--port={port}", "--node-ip-address=127.0.0.1",
         f"--dashboard-port={dashboard}", f"--temp-dir={temporary}", "--object-store-memory=200000000",
         f"--autoscaling-config={folder}/autoscaling.json"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield made
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), *made.processes()]:
            if process.is_running():
                process.kill()
        head.kill()
        head.wait(60)


def test_an_experiment_runs_to_its_end_on_nodes_that_come_and_says_what_it_waits_for(cluster: Cluster) -> None:
    place = cluster.folder
    sets = [f"dataset={place}/dataset", f"output={place}/runs"]
    recipe = load_recipe("smoke", sets)
    build_dataset(recipe.ingest, recipe.dataset)
    words = [word for one in sets for word in ("--set", one)]
    plan = cluster.stray("train", "smoke", "--plan", *words)
    assert plan.returncode == 0, plan.stderr
    assert "2 slots, 1 CPU each" in plan.stderr + plan.stdout
    # No node comes before the wait is reported, after ten seconds.
    (autoscaler,) = cluster.processes("autoscaler/_private/monitor.py")
    autoscaler.suspend()
    resume = threading.Timer(30, autoscaler.resume)
    resume.start()
    done = cluster.stray("train", "smoke", *words)
    resume.join()
    assert done.returncode == 0, done.stderr
    assert "2 slots, 1 CPU each: starting workers" in done.stderr
    assert "waiting since" in done.stderr
    assert "the cluster has" in done.stderr
    found = MlflowReader(f"sqlite:///{place}/runs/mlflow.db", "smoke").runs({"stray.kind": "cell"})
    assert [run.status for run in found] == ["FINISHED"] * 3


def test_what_no_node_could_ever_hold_is_refused_at_once(cluster: Cluster) -> None:
    place = cluster.folder
    refused = cluster.stray(
        "train", "smoke", "--set", f"dataset={place}/dataset", "--set", f"output={place}/other",
        "--set", "run.cpus_per_worker=4",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "run.cpus_per_worker" in refused.stderr
    assert "at most 1 CPUs each" in refused.stderr


def test_a_search_runs_to_its_end_on_nodes_that_come(cluster: Cluster) -> None:
    place = cluster.folder
    done = cluster.stray("search", "smoke", "--set", f"dataset={place}/dataset", "--set", f"output={place}/search")
    assert done.returncode == 0, done.stderr
    found = MlflowReader(f"sqlite:///{place}/search/mlflow.db", "smoke").runs({"stray.kind": "trial"})
    assert [run.status for run in found] == ["FINISHED"] * 2
