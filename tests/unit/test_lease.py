"""One command at a time holds a folder, whatever ended the one before it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stray import lease as module
from stray.errors import InputError
from stray.lease import holder, lease
from tests.support.s3_server import serve

HOLD = """
import sys, time
from stray.lease import lease
with lease(sys.argv[1], "stray train", "wait"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
RACE = """
import sys, time
from stray.errors import InputError
from stray.lease import lease
time.sleep(max(0, float(sys.argv[2]) - time.time()))
try:
    with lease(sys.argv[1], "stray train", "wait"):
        print("held", flush=True)
        sys.stdin.read()
except InputError as error:
    assert "is in use by `stray train`" in str(error)
    print("refused", flush=True)
"""


def start(folder: object, seconds: float = 60, script: str = HOLD) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds `tmp_path`."""
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refused(place: object, command: str = "stray search") -> InputError:
    """The error that `command` ends with."""
    with pytest.raises(InputError, match="is in use by `stray train` of") as caught:
        take(place, command)
    return caught.value


def take(place: object, command: str = "stray search") -> None:
    with lease(str(place), command, "wait until it has ended"):
        pass


def claims(folder: Path) -> list[Path]:
    return sorted((folder / ".lock").glob("*.json"))


def written_elsewhere(folder: Path, *, age_s: float = 0.0, **changes: object) -> Path:
    """Make the claim that stands in `folder` one of another machine, renewed `age_s` ago."""
    (path,) = claims(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "another", **changes}))
    renewed = time.time() - age_s
    os.utime(path, (renewed, renewed))
    return path


def test_the_second_command_is_refused_and_told_who_holds_the_folder(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    (problem,) = refused(tmp_path).problems
    assert f"(process {other.pid}), since 20" in problem.what
    assert problem.remedy == "wait until it has ended"
    assert len(claims(tmp_path)) == 1, "who is refused leaves no claim"
    found = holder(str(tmp_path))
    assert found is not None
    assert found.pid == other.pid


def test_so_is_another_thread_of_the_same_process(tmp_path: Path) -> None:
    with lease(str(tmp_path), "stray train", "wait"):
        refused(tmp_path)


def test_it_is_free_again_once_the_first_has_ended(tmp_path: Path) -> None:
    for _ in range(2):
        with lease(str(tmp_path), "stray train", "wait"):
            assert len(claims(tmp_path)) == 1
    with suppress(ZeroDivisionError), lease(str(tmp_path), "stray train", "wait"):
        _ = 1 / 0
    assert not claims(tmp_path)
    assert holder(str(tmp_path)) is None


def test_a_killed_command_holds_nothing(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    # Not waited for: the dead process is still there, a zombie.
    time.sleep(0.2)
    began = time.monotonic()
    with lease(str(tmp_path), "stray train", "wait"):
        assert len(claims(tmp_path)) == 1
    assert time.monotonic() - began < module.RENEW_S


def test_nor_does_one_whose_process_number_another_has_now(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    (path,) = claims(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": os.getpid()}))
    take(tmp_path)


def test_a_command_that_stands_still_on_this_machine_holds_on(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    (path,) = claims(tmp_path)
    other.send_signal(signal.SIGSTOP)
    os.utime(path, (0, time.time() - module.EXPIRY_S / 2))
    refused(tmp_path)


def test_a_claim_of_another_machine_expires(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    path = written_elsewhere(tmp_path, age_s=module.EXPIRY_S + 1)
    with lease(str(tmp_path), "stray train", "wait"):
        assert not path.exists()


def test_one_that_is_silent_is_watched_until_it_expires(
    tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = written_elsewhere(tmp_path)
    monkeypatch.setattr(module, "EXPIRY_S", 1.0)
    monkeypatch.setattr(module, "RENEW_S", 0.2)
    with lease(str(tmp_path), "stray train", "wait"):
        assert not path.exists()
    assert caplog.text.count("waiting up to 1 s") == 1


def test_one_that_is_renewed_is_alive(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    path = written_elsewhere(tmp_path, age_s=5)
    timer = threading.Timer(0.5, lambda: os.utime(path))
    timer.start()
    refused(tmp_path)
    timer.join()


def test_a_claim_that_cannot_be_read_expires_like_any_other(
    tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = claims(tmp_path)
    path.write_text("{")
    monkeypatch.setattr(module, "EXPIRY_S", 1.0)
    monkeypatch.setattr(module, "RENEW_S", 0.2)
    with lease(str(tmp_path), "stray train", "wait"):
        assert not path.exists()


def test_of_many_that_begin_at_the_same_time_one_holds_the_folder(tmp_path: Path) -> None:
    racing = [start(tmp_path, time.time() + 3, RACE) for _ in range(6)]
    said = []
    for process in racing:
        assert process.stdout is not None
        said.append(process.stdout.readline().strip())
    assert sorted(said) == ["held", *["refused"] * 5]
    for process in racing:
        process.communicate()
        assert process.returncode == 0


def test_a_holder_whose_claim_was_taken_over_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.1)
    threading.Timer(0.3, lambda: claims(tmp_path)[0].unlink()).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), lease(str(tmp_path), "stray train", "wait"):
        time.sleep(30)
    assert time.monotonic() - began < 20, "it is interrupted in its sleep"


def test_a_claim_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.1)
    with lease(str(tmp_path), "stray train", "wait"):
        (path,) = claims(tmp_path)
        os.utime(path, (0, 0))
        time.sleep(0.5)
        assert path.stat().st_mtime > 0


def test_it_works_on_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        with lease("s3://cohorts/runs", "stray train", "wait"):
            refused("s3://cohorts/runs")
        assert holder("s3://cohorts/runs") is None
