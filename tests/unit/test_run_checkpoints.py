"""Checkpoints on a storage: whole or not there, and what a storage that is full says."""

from __future__ import annotations

import errno
import pickle
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stray.errors import CheckpointWriteError
from stray.on_ray.checkpoints import PREFIX, STATE, keep_newest, newest, write
from stray.on_ray.failures import full_storage
from stray.storage import resolve

SMALL, LARGE = torch.zeros(10), torch.zeros(100_000)


def left(run: Path) -> list[str]:
    return sorted(str(path) for path in run.iterdir())


@pytest.fixture
def made(tmp_path: Path) -> list[str]:
    """The folders of three checkpoints, the first made first."""
    filesystem, run = resolve(tmp_path / "run")
    return [write(filesystem, run, {"epoch": epoch, "weights": SMALL}) for epoch in range(3)]


@pytest.fixture
def full() -> Iterator[None]:
    """No file of this process may grow past 100,000 bytes: to whoever writes, that is a disk without room."""
    kept, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, kept[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    signal.signal(signal.SIGXFSZ, handler)


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path, made: list[str]) -> None:
    filesystem, run = resolve(tmp_path / "run")
    assert newest(filesystem, f"{run}/none") is None
    half = tmp_path / "run" / f"{PREFIX}9999"
    half.mkdir()
    (half / f"{STATE}.01234567.partial").write_bytes(b"half")
    assert newest(filesystem, run) == made[-1]
    assert torch.load(Path(made[-1]) / STATE, weights_only=True)["epoch"] == 2


@pytest.mark.usefixtures("full")
def test_a_checkpoint_that_cannot_be_written_leaves_nothing_but_the_one_before(tmp_path: Path) -> None:
    filesystem, run = resolve(tmp_path / "run")
    first = write(filesystem, run, {"weights": SMALL})
    with pytest.raises(OSError, match="File too large"):
        write(filesystem, run, {"weights": LARGE})
    assert left(tmp_path / "run") == [first]
    assert newest(filesystem, run) == first


def test_the_newest_two_are_kept_and_what_was_half_written_goes(tmp_path: Path, made: list[str]) -> None:
    filesystem, run = resolve(tmp_path / "run")
    torn = tmp_path / "run" / f"{PREFIX}0000"
    torn.mkdir()
    (torn / f"{STATE}.01234567.partial").write_bytes(b"half")
    keep_newest(filesystem, run)
    assert left(tmp_path / "run") == made[1:]


def test_a_run_that_never_began_is_left_alone(tmp_path: Path) -> None:
    filesystem, run = resolve(tmp_path / "run")
    keep_newest(filesystem, run)
    assert not (tmp_path / "run").exists()


def test_an_error_for_want_of_room_is_found_behind_others_and_told_with_its_remedy() -> None:
    class Wrapped(Exception):
        def __init__(self, inside: BaseException) -> None:
            super().__init__("a group failed")
            self.controller_failure = inside

    outer = Wrapped(OSError(errno.ENOSPC, "No space left on device"))
    found = full_storage(outer, "runs/checkpoints")
    assert found is not None
    assert "runs/checkpoints: [Errno 28] No space left on device" in str(found)
    assert "run the same command again" in str(found)
    again = pickle.loads(pickle.dumps(found))
    assert isinstance(again, CheckpointWriteError)
    assert again.problems == found.problems
    assert full_storage(Wrapped(OSError(errno.EACCES, "Permission denied")), "runs") is None
    assert full_storage(ValueError("other"), "runs") is None
