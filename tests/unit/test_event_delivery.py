"""Events of workers on the driver: each kind comes to its runs in a real MLflow store and to the progress display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stray.on_ray.events import (
    Artifact,
    Content,
    Curves,
    Event,
    Metrics,
    Note,
    Params,
    RunEnded,
    RunOpened,
    Source,
    StageDone,
    Warned,
)
from stray.on_ray.progress import NullProgress
from stray.on_ray.tracking import Tracking
from stray.recipe import apply
from stray.track import records
from stray.track.mlflow_reader import MlflowReader
from tests.support.small_cohort import small_recipe


class Shown(NullProgress):
    """Keeps what it is asked to show."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, key: str, label: str, total: float | None = None) -> None:
        self.calls.append(("start", label, total))

    def update(self, key: str, done: float | None = None, note: str | None = None) -> None:
        self.calls.append(("update", key, done))

    def finish(self, key: str, note: str | None = None) -> None:
        self.calls.append(("finish", key))

    def say(self, text: str) -> None:
        self.calls.append(("say", text))


def test_every_event_comes_to_its_runs_and_to_the_display(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    recipe, shown = apply(small_recipe(tmp_path), {"track.uri": uri}), Shown()
    epoch = dict.fromkeys(("learning_rate", "spots_per_second", "waiting_for_data_share", "peak_memory_gib"), 1.0)
    with Tracking(recipe, kind=records.SEARCH, key="k", dataset="d", progress=shown) as tracking:

        def deliver(content: Content, *targets: str) -> None:
            tracking.deliver(Event(Source(targets, "gene stage", epochs=5), content))

        for key in ("a", "b"):
            deliver(RunOpened(key, recipe, {records.KIND: records.TRIAL}), key)
        deliver(Params({"search.lr": 0.1}), "a", "b")
        deliver(Metrics({"gene/loss": 2.0}, 1), "a", "b", "one that is not open")
        deliver(Metrics({f"gene/{name}": value for name, value in epoch.items()}, 2), "a")
        deliver(Curves([("gene/loss", 1, 2.0), ("gene/loss", 2, 1.0)]), "a")
        deliver(Artifact("codes.png", b"dots", "figures"), "a")
        deliver(Warned("loss", "at chance"), "a")
        deliver(Note("resumed after epoch 1"))
        deliver(StageDone())
        deliver(RunEnded("FINISHED"), "a")
        deliver(RunEnded("FAILED"), "b")
    reader = MlflowReader(uri)
    runs = {run.name: run for run in reader.runs({records.KIND: records.TRIAL})}
    assert {name: run.status for name, run in runs.items()} == {"a": "FINISHED", "b": "FAILED"}
    assert [run.params["search.lr"] for run in runs.values()] == ["0.1", "0.1"]
    assert runs["b"].metrics == {"gene/loss": 2.0}
    assert reader.history(runs["a"].run_id, "gene/loss") == [(1, 2.0), (2, 1.0)]
    assert runs["a"].metrics["gene/learning_rate"] == 1.0
    assert runs["a"].tags[records.WARNING + "loss"] == "at chance"
    figures = reader.download(runs["a"].run_id, "figures", tmp_path)
    assert figures is not None
    assert (Path(figures) / "codes.png").read_bytes() == b"dots"
    assert shown.calls == [
        ("start", "gene stage", 5),
        ("update", "gene stage", 2),
        ("say", "gene stage: warning: at chance"),
        ("say", "gene stage: resumed after epoch 1"),
        ("finish", "gene stage"),
    ]
