from __future__ import annotations

from pathlib import Path

import pytest

from stray.track.tracker import MemoryTracker, NullTracker, Tracker


def test_every_tracker_keeps_the_protocol() -> None:
    for tracker in (NullTracker(), MemoryTracker()):
        assert isinstance(tracker, Tracker)


def test_the_null_tracker_takes_everything(tmp_path: Path) -> None:
    tracker = NullTracker()
    tracker.params({"a": 1})
    tracker.metrics({"b": 2.0}, 3)
    tracker.artifact(tmp_path / "absent")
    tracker.warn("loss", "at chance")
    tracker.close("FAILED")


def test_the_memory_tracker_keeps_everything(tmp_path: Path) -> None:
    file = tmp_path / "figure.png"
    file.write_bytes(b"x")
    tracker = MemoryTracker()
    tracker.params({"a": 1})
    tracker.params({"a": 2, "b": 3})
    tracker.metrics({"loss": 2.0}, 0)
    tracker.metrics({"loss": 1.0, "rate": 0.1}, 1)
    tracker.artifact(file, "figures")
    tracker.close()
    assert tracker.logged_params == {"a": 1, "b": 3}
    assert tracker.series("loss") == [(0, 2.0), (1, 1.0)]
    assert tracker.artifacts == {"figures/figure.png": str(file)}
    assert tracker.status == "FINISHED"
    with pytest.raises(FileNotFoundError):
        tracker.artifact(tmp_path / "absent")
