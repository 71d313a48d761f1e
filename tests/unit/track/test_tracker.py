from __future__ import annotations

from pathlib import Path

import pytest

from stray.track.tracker import CompositeTracker, MemoryTracker, NullTracker, Tracker


def test_every_tracker_keeps_the_protocol() -> None:
    for tracker in (NullTracker(), MemoryTracker(), CompositeTracker()):
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


def test_the_composite_closes_all_even_if_one_fails() -> None:
    class Broken(NullTracker):
        def close(self, status: str = "FINISHED") -> None:  # type: ignore[override]
            raise OSError("no space")

    first, last = MemoryTracker(), MemoryTracker()
    both = CompositeTracker(first, Broken(), last)
    both.params({"a": 1})
    both.metrics({"loss": 1.0}, 4)
    both.warn("loss", "at chance")
    with pytest.raises(OSError, match="no space"):
        both.close("KILLED")
    for tracker in (first, last):
        assert tracker.logged_params == {"a": 1}
        assert tracker.series("loss") == [(4, 1.0)]
        assert tracker.warnings == {"loss": "at chance"}
        assert tracker.status == "KILLED"
