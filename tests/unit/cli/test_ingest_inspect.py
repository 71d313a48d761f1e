from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image

from stray.cli import ingest as ingest_verb
from stray.cli import main
from stray.cohort.build import build_dataset
from stray.config.ingest import (
    H5adSourceConfig,
    Her2stSourceConfig,
    IngestConfig,
    LabelTableConfig,
    PatchConfig,
    SyntheticSourceConfig,
)
from stray.errors import InputError, Problem
from stray.on_ray import ingest, session, waiting
from tests.support.tiny import config_of, write_her2st


def config(*words: str) -> IngestConfig:
    parser = argparse.ArgumentParser()
    ingest_verb.configure(parser)
    return ingest_verb.config_from(parser.parse_args(["OUT", *words]))


def test_flags_become_the_recipes_section() -> None:
    made = config(
        *("--her2st", "a", "--h5ad", "b.h5ad", "--h5ad", "c.h5ad", "--synthetic", "seed=3,patients=2"),
        *("--prefer", "h5ad:A1,A2", "--prefer", "her2st:B1", "--labels", "weak=w.csv"),
        *("--patch-um", "204", "--patch-px", "32", "--patch-encoding", "jpeg"),
    )
    assert made == IngestConfig(
        sources=(
            Her2stSourceConfig(path="a"),
            H5adSourceConfig(path="b.h5ad"),
            H5adSourceConfig(path="c.h5ad"),
            SyntheticSourceConfig(seed=3, patients=2),
        ),
        labels=(LabelTableConfig(name="weak", path="w.csv"),),
        prefer=("h5ad:A1", "h5ad:A2", "her2st:B1"),
        patch=PatchConfig(size_um=204.0, size_px=32, encoding="jpeg"),
    )


def test_flags_add_to_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "cohort.yaml"
    recipe.write_text("ingest:\n  sources:\n  - {kind: her2st, path: a}\n  patch: {size_um: 204, size_px: 64}\n")
    made = config("--recipe", str(recipe), "--h5ad", "b.h5ad", "--patch-px", "32")
    assert made.sources == (Her2stSourceConfig(path="a"), H5adSourceConfig(path="b.h5ad"))
    assert made.patch == PatchConfig(size_um=204.0, size_px=32)


@pytest.mark.parametrize(
    ("words", "minutes"),
    [
        ([], 30.0),
        (["--recipe", "{folder}/patient.yaml"], 7.5),
        (["--recipe", "{folder}/endless.yaml"], None),
        (["--recipe", "{folder}/patient.yaml", "--wait-minutes", "2"], 2.0),
    ],
)
def test_an_ingest_waits_as_long_as_its_recipe_or_flag_says(
    words: list[str], minutes: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"patient": "7.5", "endless": "null"}.items():
        (tmp_path / f"{name}.yaml").write_text(f"run: {{wait_minutes: {value}}}\n")
    found = []

    def begun(*_args: object, **_more: object) -> None:
        found.append(waiting._patience)
        raise InputError(Problem("the test", "ends it here"))

    monkeypatch.setattr(session, "session", lambda **_: nullcontext())
    monkeypatch.setattr(ingest, "ingest", begun)
    given = [word.format(folder=tmp_path) for word in words]
    assert main(["ingest", str(tmp_path / "out"), "--synthetic", "patients=2", *given]) == 2
    assert [(one.minutes, one.setting) for one in found] == [(minutes, "--wait-minutes")]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--labels", "w.csv"], "'w.csv' is not NAME=CSV"),
        (["--synthetic", "seed"], "'seed' is not KEY=VALUE"),
        (["--synthetic", "patient=2"], "patients"),
        (["--her2st", "a", "--patch-um", "-3"], "size_um"),
    ],
    ids=["labels without a name", "no value", "unknown key", "negative size"],
)
def test_flags_that_mean_nothing_are_refused(words: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        config(*words)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    write_her2st(tmp_path / "her2st", "A1", labels=True, image=True)
    write_her2st(tmp_path / "her2st", "B1", spots=["1x1", "2x1", "9x9"])
    build_dataset(config_of(tmp_path / "her2st"), str(tmp_path / "dataset"))
    return str(tmp_path / "dataset")


def test_the_card_shows_what_there_is(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", dataset, "--verify"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "27 spots, 2 sections, 2 patients, 4 genes",
        "25 spots with picture and counts",
        "every file agrees with its checksum",
        "tumour",
        "has counts but no coordinates",
        "B1 9x9",
        "has coordinates but no counts",
        "and 17 more",
    ):
        assert text in shown


def test_pictures_are_written_for_every_section(dataset: str, tmp_path: Path) -> None:
    assert main(["inspect", dataset, "--pictures", str(tmp_path / "look")]) == 0
    names = {path.name for path in (tmp_path / "look").iterdir()}
    assert names == {"contact-sheet.png", "section-A1.png", "section-B1.png"}
    # The tissue panel shows the colours of the picture, the bare section mostly white.
    with Image.open(tmp_path / "look/section-A1.png") as tissue, Image.open(tmp_path / "look/section-B1.png") as bare:
        whites = [sum(image.convert("L").histogram()[250:]) / (image.width * image.height) for image in (tissue, bare)]
    assert whites[0] + 0.15 < whites[1]


def test_a_damaged_dataset_is_refused_with_exit_code_2(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    shard = Path(dataset, "spots/A/A1/part-00000.parquet")
    content = bytearray(shard.read_bytes())
    content[60] ^= 1
    shard.write_bytes(content)
    assert main(["inspect", dataset]) == 0
    assert main(["inspect", dataset, "--verify"]) == 2
    error = capsys.readouterr().err
    assert "its content differs" in error
    assert "Traceback" not in error
    assert main(["inspect", f"{dataset}/spots"]) == 2
    assert main(["inspect", dataset, "--pictures", f"{dataset}/manifest.json/look"]) == 2
