"""When a cell is done: its scores are kept, and the store of the command has them. Without Ray."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.data.local import LocalData
from stray.experiment.cells import Group
from stray.on_ray.events import Event, RunEnded, Source
from stray.on_ray.progress import NullProgress
from stray.on_ray.score import Scorer
from stray.on_ray.tracking import Tracking
from stray.recipe import apply
from stray.stages.run import run_stage
from stray.track.mlflow_reader import MlflowReader
from stray.track.records import RunRecord
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, small_dataset, small_recipe


class Said(NullProgress):
    """What the person who watches is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Place:
    """A cohort with one cell, whose stage is done."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "runs" / "smoke"
        self.dataset: PairedDataset = small_dataset(folder)
        self.recipe: Recipe = small_recipe(folder)
        self.cell = prepared_cell(self.recipe, self.dataset, self.root, train=False)
        run_stage(self.cell.scored, LocalData(self.dataset), LocalWorker(), MemoryTracker())

    @contextmanager
    def command(self, said: Said, *, uri: str, experiment: str = "smoke") -> Iterator[Scorer]:
        """One command, up to its scoring."""
        recipe = apply(self.recipe, {"track.uri": uri, "track.experiment": experiment})
        with Tracking(recipe, kind="experiment", key="k", dataset="d", progress=said) as tracking:
            yield Scorer(recipe, self.dataset, tracking, said, str(self.root), again=False)

    def score(self, *, uri: str, experiment: str = "smoke") -> bool:
        """Run a whole command; whether it scored the cell."""
        with self.command(said := Said(), uri=uri, experiment=experiment) as scorer:
            scorer.score(Group((self.cell,)))
        return any("balanced accuracy" in line for line in said.lines)

    def run(self, *, uri: str, experiment: str = "smoke") -> RunRecord:
        """The cell's run in the store."""
        (run,) = MlflowReader(uri, experiment).runs({"stray.kind": "cell"})
        return run

    @property
    def done(self) -> list[Path]:
        """The mark of the cell."""
        return list(self.root.glob("cell-*/done.json"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("scorer"))


def test_a_cell_is_done_when_the_store_has_its_scores(place: Place, tmp_path: Path) -> None:
    uri, other = f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/other/mlflow.db"
    with place.command(said := Said(), uri=uri) as scorer:
        scorer.open(place.cell)
        assert scorer._tracking._store.flush()
        blocker = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        try:
            scorer.score(Group((place.cell,)))
            (scores,) = place.root.glob("cell-*/metrics.json")
            assert not place.done
        finally:
            blocker.execute("ROLLBACK")
            blocker.close()
    assert not [line for line in said.lines if "did not receive" in line]
    assert len(place.done) == 1
    run = place.run(uri=uri)
    assert run.status == "FINISHED"
    expected = json.loads(scores.read_text())
    assert {name: run.metrics[name] for name in expected} == expected

    # Nothing is left to do for this store, and all of it for another file, another experiment, and a mark that is lost.
    assert not place.score(uri=uri)
    for where in ({"uri": other}, {"uri": uri, "experiment": "another"}):
        assert place.score(**where)
        assert place.run(**where).metrics == run.metrics
        assert not place.score(**where)
    place.done[0].unlink()
    assert place.score(uri=uri)
    assert len(place.done) == 1
    client = MlflowReader(uri, "smoke")._client
    assert [len(client.get_metric_history(run.run_id, name)) for name in expected] == [1] * len(expected)


def test_a_run_that_nobody_closed_has_failed(place: Place, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with place.command(Said(), uri=uri) as scorer:
        scorer.open(place.cell)
    assert place.run(uri=uri).status == "FAILED"
    with place.command(Said(), uri=uri) as scorer:
        scorer.open(place.cell)
        source = Source((scorer.run_key(place.cell),), "trial", epochs=1)
        scorer._tracking.deliver(Event(source, RunEnded("FAILED")))  # as a trial says it
    assert place.run(uri=uri).status == "FAILED"
    with suppress(KeyboardInterrupt), place.command(Said(), uri=uri) as scorer:
        scorer.open(place.cell)
        raise KeyboardInterrupt
    assert place.run(uri=uri).status == "KILLED"
