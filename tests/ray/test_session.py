"""The session: what it starts ends with it, however it ends, and what it joins goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import ray

from stray.errors import InputError
from stray.on_ray import session
from stray.on_ray.session import SessionInfo

HOLD = """
import time
from stray.on_ray.session import session
if __name__ == "__main__":
    with session(num_cpus=1, object_store_gib=0.2) as info:
        print(info.address, flush=True)
        time.sleep(120)
"""

ASK = """
import ray
from stray.on_ray.session import session

class Actor:
    def ready(self):
        return True

    def state_of(self, actor):
        from ray.util.state import get_actor

        return getattr(get_actor(actor, timeout=10), "state", "unknown")

if __name__ == "__main__":
    with session(num_cpus=1, object_store_gib=0.2):
        one, other = (ray.remote(num_cpus=0)(Actor).remote() for _ in range(2))
        ray.get(one.ready.remote())
        print(ray.get(other.state_of.remote(one._actor_id.hex())))
"""


def test_a_local_session_has_what_was_asked_for(ray_session: SessionInfo) -> None:
    assert ray_session.local
    assert ray_session.resources.cpus == 2
    assert len(ray_session.resources.nodes) == 1
    assert ray_session.dashboard.startswith("127.0.0.1:"), "the dashboard is on, for this machine alone"
    assert ray.cluster_resources()["object_store_memory"] < 0.4 * 1024**3


def test_starting_again_joins_what_is_there(ray_session: SessionInfo) -> None:
    assert session.start(num_cpus=7) == ray_session


def test_a_session_within_another_one_leaves_it_running(ray_session: SessionInfo) -> None:
    with session.session(num_cpus=1) as inner:
        assert inner == ray_session
    assert ray.is_initialized()
    with session.session() as again:
        assert again == ray_session


def test_workers_import_the_same_stray(ray_session: SessionInfo) -> None:
    import stray

    def where() -> str:
        import stray

        return stray.__file__

    assert ray.get(ray.remote(where).remote()) == stray.__file__


def test_what_fails_in_a_worker_reaches_the_driver(ray_session: SessionInfo) -> None:
    def fail() -> None:
        raise KeyError("in the worker")

    with pytest.raises(KeyError, match="in the worker"):
        ray.get(ray.remote(fail).remote())


def test_rays_chatter_goes_to_a_file_and_not_to_the_console(
    ray_session: SessionInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray.data

    def talk() -> None:
        print("chatter of a worker")

    ray.get(ray.remote(talk).remote())
    ray.data.range(8).map_batches(lambda batch: batch).materialize()
    time.sleep(1.0)
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""
    assert "Execution" in Path(ray_session.logs, f"stray-driver-{os.getpid()}.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_session_asks_its_own_cluster_about_its_actors_not_the_one_last_started_on_the_machine() -> None:
    # As Ray's clean-up after a training does. In a folder with a short name: paths of sockets may not be long.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        script = Path(folder) / "ask.py"
        script.write_text(ASK, encoding="utf-8")
        environment = os.environ | {"RAY_TMPDIR": folder}
        command = [sys.executable, str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "ALIVE", done.stderr


def test_what_a_local_session_sets_for_itself_is_as_before_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    session.stop()
    monkeypatch.setenv(session.API_SERVER, "http://elsewhere:8265")
    with session.session(num_cpus=1, object_store_gib=0.2) as info:
        assert os.environ[session.API_SERVER] == f"http://{info.dashboard}"
        assert session.LOCAL_SETTINGS.items() <= os.environ.items()
    assert os.environ[session.API_SERVER] == "http://elsewhere:8265"
    assert not session.LOCAL_SETTINGS.keys() & os.environ.keys()


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, id="kill", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_session_leaves_no_process_behind(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "hold.py"
    script.write_text(HOLD, encoding="utf-8")
    # HOME that cannot be written: Ray's file with a token has no place.
    environment = os.environ | ({"HOME": "/proc/none"} if number == signal.SIGTERM else {})
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stdout is not None
        assert ":" in process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("raylet" in child.name() for child in children)
        process.send_signal(number)
        assert process.wait(timeout=60) == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}[number]
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_the_address_of_a_dashboard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session.stop()
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(InputError, match="stray submit"):
        session.start()
    assert not ray.is_initialized()


def test_stopping_without_a_session_does_nothing() -> None:
    session.stop()
    session.stop()
