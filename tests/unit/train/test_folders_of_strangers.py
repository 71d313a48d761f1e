"""A folder that is whole and says something else than it should is refused by name, and before Ray starts."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from stray.cli import main
from stray.cohort.build import build_dataset
from stray.errors import InputError
from stray.on_ray import session
from stray.stages.contrastive.exported import load
from stray.stages.gene.encoder import load_gene_encoder
from stray.stages.results import ResultFolder
from tests.support.tiny import config_of, write_her2st

PATCH = {"size_um": 112.0, "size_px": 64}
GOOD = {"image": {"kind": "torchvision"}, "projection": None, "patch": PATCH, "facts": {}}


def model(path: Path, tree: object, **facts: Any) -> str:
    folder = ResultFolder(str(path))
    folder.write_json("model.json", tree)
    folder.write_weights("encoder.pt", {"weight": torch.zeros(3)})
    folder.finish({"kind": "model", **facts})
    return str(path)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        None,
        "model",
        {"image": {"kind": "crystal ball"}, "patch": PATCH, "facts": {}},
        {**GOOD, "image": None},
        {**GOOD, "patch": {"size_um": -1, "size_px": 64}},
        {**GOOD, "patch": {"size_um": 112.0, "size_px": "many"}},
        {**GOOD, "facts": 3},
        {key: value for key, value in GOOD.items() if key != "facts"},
        {**GOOD, "projection": {"size": "large"}},
    ],
)
def test_a_model_of_another_schema_is_refused(tmp_path: Path, tree: object) -> None:
    with pytest.raises(InputError, match=r"model\.json") as caught:
        load(model(tmp_path / "model", tree))
    assert caught.value.problems[0].remedy
    assert "\n" not in caught.value.problems[0].what


def test_a_gene_stage_of_another_schema_is_refused(tmp_path: Path) -> None:
    for number, tree in enumerate(({}, [], {"gene": {"model": {"kind": "oracle"}}, "batches": 3})):
        folder = ResultFolder(str(tmp_path / f"gene{number}"))
        folder.write_json("config.json", tree)
        folder.write_json("panel.json", {})
        folder.finish({"kind": "gene"})
        with pytest.raises(InputError, match=r"config\.json"):
            load_gene_encoder(folder.path)


def test_what_is_no_model_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def refuse(*_: Any, **__: Any):
        raise AssertionError("Ray was started")
        yield

    monkeypatch.setattr(session, "session", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    write_her2st(tmp_path / "her2st", "A1", image=True)
    build_dataset(config_of(tmp_path / "her2st"), str(tmp_path / "dataset"))
    for kind in ("contrastive", "gene"):
        ResultFolder(str(tmp_path / kind)).finish({"kind": kind})
    (tmp_path / "empty").mkdir()
    broken = model(tmp_path / "broken", {})
    verbs = [("embed", "contrastive"), ("embed", "empty"), ("embed", "none"), ("embed", "gene"), ("embed", broken)]
    verbs += [("predict", "contrastive"), ("predict", "gene"), ("predict", "empty"), ("predict", broken)]
    for verb, folder in verbs:
        assert main([verb, str(tmp_path / folder), str(tmp_path / "dataset")]) == 2
        said = capsys.readouterr().err
        assert Path(folder).name in said
        assert "Traceback" not in said
