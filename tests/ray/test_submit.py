"""Jobs, against a real cluster of two nodes that `cluster/local.sh` starts on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ray._common.utils import get_ray_address_file

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL = ROOT / "cluster" / "local.sh"

DRIVER = """
import ray
from jobs.benchmarks.common import ray_session

def where():
    import jobs.benchmarks
    return jobs.benchmarks.__file__

if __name__ == "__main__":
    with ray_session(1):
        print(ray.get(ray.remote(where).remote()))
"""

JOB = """
import os, sys
from stray.on_ray import session
from stray.config import Recipe
from stray.errors import InputError

if __name__ == "__main__":
    print("first line")
    with session.session() as info:
        print("nodes", len(info.resources.nodes), "local", info.local)
        print("plan", session.plan_slots(Recipe().run))
        session.check_paths_visible(Recipe(dataset=sys.argv[1] + "/data", output=sys.argv[1] + "/out"))
        try:
            # Each node has a copy of the working directory of its own.
            session.check_paths_visible(Recipe(output="file:///proc/self/cwd/private"))
        except InputError as error:
            print("refused", error)
        print("left", os.listdir("private"))
    print("greeting", os.environ["GREETING"])
    print("file", open("beside.txt").read())
    sys.exit(int(sys.argv[2]))
"""


@dataclass
class LocalCluster:
    address: str
    gcs: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    port, dashboard = free_port(), free_port()
    # Ray sets RAY_AUTH_MODE in a process that has had a session, which asks this cluster for a token that it lacks.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment = {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STRAY_CLUSTER_DIR": str(folder / "state"),
        # The token of this cluster stays out of the developer's home.
        "HOME": str(folder),
    }
    started = subprocess.run(
        [str(LOCAL), "start", "--port", str(port), "--dashboard-port", str(dashboard), "--object-store-gib", "0.2"],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    try:
        assert started.returncode == 0, started.stderr
        yield LocalCluster(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", environment)
    finally:
        subprocess.run([str(LOCAL), "stop"], env=environment, check=True, timeout=120, capture_output=True)
    ours = [
        process for process in psutil.process_iter(["cmdline"]) if str(port) in " ".join(process.info["cmdline"] or [])
    ]
    assert not ours, "`cluster/local.sh stop` ends what it started"
    current = Path(get_ray_address_file(None))
    left = current.read_text() if current.exists() else ""
    assert not left.endswith(f":{port}"), "nobody is sent to a cluster that is gone"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "beside.txt").write_text("came along", encoding="utf-8")
    return tmp_path


def submit(cluster: LocalCluster, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stray", "submit", "--address", cluster.address, *words]
    return subprocess.run(command, cwd=folder, env=cluster.environment, capture_output=True, text=True, timeout=180)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(0, id="a job that succeeds"),
        pytest.param(7, id="a job that fails", marks=pytest.mark.slow),
    ],
)
def test_a_job_runs_on_both_nodes_with_its_files_and_ends_as_it_ends(
    code: int, cluster: LocalCluster, folder: Path
) -> None:
    done = submit(cluster, folder, "--env", "GREETING=hello", "--", "python", "job.py", str(folder), str(code))
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.count("first line") == 1, "no part of the log is missing or shown twice"
    assert "nodes 2 local False" in done.stdout
    assert "plan 2 slots, 1 CPU each" in done.stdout
    assert "greeting hello" in done.stdout
    assert "file came along" in done.stdout
    assert "refused output: file:///proc/self/cwd/private is not visible on 1 of the cluster's nodes" in done.stdout
    assert "left []" in done.stdout
    assert list((folder / "out").iterdir()) == [], "the probe of visibility is taken away"
    assert ("succeeded" if code == 0 else f"ended with code {code}") in done.stderr


@pytest.mark.slow
def test_a_verb_of_stray_runs_with_its_recipes_where_the_folder_has_neither(
    cluster: LocalCluster, folder: Path
) -> None:
    done = submit(cluster, folder, "config", "smoke", "--set", "name=from-the-cluster")
    assert done.returncode == 0, done.stderr
    assert "name: from-the-cluster" in done.stdout


def test_bad_input_on_the_cluster_is_exit_code_2(cluster: LocalCluster, folder: Path) -> None:
    done = submit(cluster, folder, "config", "smoke", "--set", "contrastive.lr=1")
    assert done.returncode == 2
    assert "`contrastive.optim.lr`" in done.stdout


@pytest.mark.slow
def test_a_job_of_this_checkout_starts(cluster: LocalCluster) -> None:
    done = submit(cluster, ROOT, "--", "python", "jobs/train.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: stray train" in done.stdout


def test_a_driver_outside_a_job_joins_by_ray_address(cluster: LocalCluster, folder: Path) -> None:
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.gcs, "GREETING": "hello"}
    done = subprocess.run(
        [sys.executable, "job.py", str(folder), "0"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nodes 2 local False" in done.stdout


def test_such_a_driver_sends_the_benchmarks_along(cluster: LocalCluster, tmp_path: Path) -> None:
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.gcs, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "runtime_resources" in done.stdout, "Ray's copy, not this checkout"


def test_no_follow_prints_the_name_of_the_job(cluster: LocalCluster, folder: Path) -> None:
    done = submit(cluster, folder, "--no-follow", "--", "python", "-c", "print(1)")
    assert done.returncode == 0
    assert done.stdout.startswith("raysubmit_")


def test_no_cluster_is_an_input_error(cluster: LocalCluster, folder: Path) -> None:
    nowhere = LocalCluster(f"http://127.0.0.1:{free_port()}", "", cluster.environment)
    done = submit(nowhere, folder, "--", "python", "job.py")
    assert done.returncode == 2
    assert f"--address: no dashboard answers at {nowhere.address}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_cluster_that_is_gone_is_an_input_error(cluster: LocalCluster, folder: Path) -> None:
    gone = {**cluster.environment, "RAY_ADDRESS": f"127.0.0.1:{free_port()}", "RAY_py_gcs_connect_timeout_s": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "stray", "submit", "--", "train", "smoke"],
        cwd=folder, env=gone, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no job could be submitted" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_with_a_token_says_so_to_who_has_none(cluster: LocalCluster, folder: Path, tmp_path: Path) -> None:
    stranger = LocalCluster(cluster.address, "", {**cluster.environment, "HOME": str(tmp_path)})
    done = submit(stranger, folder, "--", "python", "job.py")
    assert done.returncode == 2
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "nothing to run"),
        (["--env", "A", "--", "train"], "is not NAME=VALUE"),
        (["--working-dir", "nowhere", "--", "train", "smoke"], "is not a folder"),
    ],
    ids=["no command", "no value", "no folder"],
)
def test_what_cannot_be_submitted_is_refused(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from stray.cli import main

    assert main(["submit", *words]) == 2
    assert text in capsys.readouterr().err
