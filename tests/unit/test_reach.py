"""What is looked at before Ray: whether a cluster answers, and whether one can start here. Nothing here starts Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from ray._private import services

from stray.errors import InputError
from stray.on_ray import reach
from stray.on_ray.reach import check_cluster, check_dashboard, check_folder, not_joined, not_started


@pytest.fixture
def closed() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing, as of a process that hangs."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def other_service() -> Iterator[int]:
    """A gRPC server that is no GCS, as a raylet's port is."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


@pytest.fixture
def alive() -> Iterator[int]:
    """A gRPC server that answers as the GCS does."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    answer = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", {"CheckAlive": answer}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


def refusal(address: str) -> str:
    with pytest.raises(InputError) as caught:
        check_cluster(address)
    (problem,) = caught.value.problems
    assert problem.place == "RAY_ADDRESS"
    assert "unset" in problem.remedy
    return problem.what


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nobody_listens_is_refused(closed: int, form: str) -> None:
    address = form.format(closed)
    assert f"no cluster answers at {address}: Connection refused" in refusal(address)


def test_so_is_one_that_takes_connections_and_is_no_ray(
    silent: int, other_service: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "PROBE_S", 0.3)
    assert "not Ray's GCS" in refusal(f"127.0.0.1:{silent}")
    monkeypatch.undo()
    assert "another service of Ray" in refusal(f"127.0.0.1:{other_service}")


def test_a_gcs_that_answers_is_taken(alive: int) -> None:
    check_cluster(f"127.0.0.1:{alive}")


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "head", "127.0.0.1:", ":6379", "127.0.0.1:port", "127.0.0.1:99999", "redis://127.0.0.1:6379", " "],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    assert "is not the address of a cluster" in refusal(address)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 80, "ä.invalid"])
def test_a_host_that_nobody_knows_is_refused(host: str) -> None:
    assert "no cluster answers" in refusal(f"{host}:6379")


def test_auto_finds_out_that_the_cluster_it_stands_for_is_gone(
    closed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others of this machine may run a cluster.
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: set())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert "Could not find any running Ray instance" in refusal("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed}")
    assert f":{closed} (auto): Connection refused" in refusal("auto")


def test_a_dashboard_where_nobody_listens_is_refused(closed: int, silent: int) -> None:
    with pytest.raises(InputError, match="no dashboard answers"):
        check_dashboard(f"http://127.0.0.1:{closed}", "--address")
    with pytest.raises(InputError, match="is not an address"):
        check_dashboard("http://127.0.0.1:port", "--address")
    check_dashboard(f"http://127.0.0.1:{silent}/", "--address")
    check_dashboard(None, "--address")


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_with_a_long_path_is_refused_by_its_variable(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(tmp_path / ("deep" * 20)))
    with pytest.raises(InputError) as caught:
        check_folder()
    (problem,) = caught.value.problems
    assert problem.place == name
    assert "too long" in problem.what
    assert "RAY_TMPDIR=/tmp" in problem.remedy
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_folder()


@pytest.mark.parametrize("place", ["/proc/none", "/dev/null/x"])
def test_so_is_one_that_cannot_be_made(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", place)
    with pytest.raises(InputError, match="cannot be made"):
        check_folder()


def test_what_ray_says_comes_with_a_remedy() -> None:
    late = not_started(Exception("The current node timed out during startup. This could happen because some of ..."))
    assert "did not start in time" in str(late)
    assert "overloaded" in str(late)
    assert "No space left" in str(not_started(OSError(28, "No space left on device", "/tmp/ray")))
    assert "same versions" in str(
        not_joined("a:1", RuntimeError("Version mismatch: The cluster was started with: ..."))
    )
    assert "RAY_AUTH_TOKEN" in str(not_joined("a:1", RuntimeError("Token authentication is enabled but no token")))
    assert "stray submit" in str(not_joined("a:1", ConnectionError("cannot find the existing raylet on this node")))
    assert "ValueError" in str(not_started(ValueError()))
    assert os.path.basename(str(not_started(ValueError()))) == "logs"
