"""The ingest as Ray tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.errors import InputError
from stray.on_ray.ingest import ingest
from tests.support.tiny import config_of, picture_path, write_counts, write_her2st


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "her2st"
    for number, name in enumerate(("A1", "A2", "B1", "C1", "C2", "D1", "E1")):
        write_her2st(folder, name, image=name in ("A1", "C2"), labels=name == "A1", seed=number)
    return folder


@pytest.mark.usefixtures("ray_session")
def test_tasks_make_the_dataset_that_one_process_makes(source: Path, tmp_path: Path) -> None:
    events: list[dict] = []
    there = ingest(config_of(source), str(tmp_path / "there"), on_event=events.append)
    here = build_dataset(config_of(source), str(tmp_path / "here"))
    assert there == here
    PairedDataset.open(str(tmp_path / "there")).verify()
    sections = [event for event in events if event["event"] == "section"]
    assert [event["done"] for event in sections] == list(range(1, 8))
    assert {event["section"]: event["spots"] for event in sections} == {entry.name: 25 for entry in here.sections}

    events.clear()
    assert ingest(config_of(source), str(tmp_path / "there"), on_event=events.append) == there
    assert {event["state"] for event in events if event["event"] == "section"} == {"kept"}


@pytest.mark.usefixtures("ray_session")
def test_problems_of_several_tasks_come_back_together(source: Path, tmp_path: Path) -> None:
    picture = picture_path(source, "C2")
    picture.write_bytes(picture.read_bytes()[:2000])
    write_counts(source, "B1", write_her2st(tmp_path / "other", "B1") - 4)
    with pytest.raises(InputError) as caught:
        ingest(config_of(source), str(tmp_path / "out"))
    assert {Path(problem.place).name for problem in caught.value.problems} == {"HE.jpg", "B1.tsv.gz"}
    assert not (tmp_path / "out/manifest.json").exists()
    # What succeeded is kept once the fault is mended.
    write_counts(source, "B1", write_her2st(tmp_path / "other", "B1"))
    picture.unlink()
    picture.parent.rmdir()
    events: list[dict] = []
    ingest(config_of(source), str(tmp_path / "out"), on_event=events.append)
    written = {event["section"] for event in events if event["event"] == "section" and event["state"] == "written"}
    assert written == {"B1", "C2"}


@pytest.mark.usefixtures("ray_session")
def test_a_node_with_little_memory_still_gets_tasks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = max(node["Resources"]["memory"] for node in ray.nodes())
    monkeypatch.setattr("stray.on_ray.ingest.SECTION_MEMORY_BYTES", int(most * 10))
    assert ingest(config_of(source), str(tmp_path / "out")).n_spots == 7 * 25
