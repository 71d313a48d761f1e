"""A stranger's model folder runs no code unless the user says that it is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from stray.cli import main
from stray.errors import InputError
from stray.stages.contrastive.exported import load
from stray.stages.results import ResultFolder


@pytest.fixture
def strange_model(tmp_path: Path) -> Path:
    """A folder whose encoder is made by a shell command that leaves a file behind."""
    folder = ResultFolder(str(tmp_path / "model"))
    image = {"kind": "callable", "factory": "os:system", "options": {"command": f"touch {tmp_path / 'ran'}"}}
    folder.write_json(
        "model.json", {"image": image, "projection": None, "patch": {"size_um": 112.0, "size_px": 64}, "facts": {}}
    )
    folder.write_weights("encoder.pt", {})
    folder.finish({"kind": "model", "probe": False})
    return tmp_path / "model"


def test_a_callable_of_a_model_folder_is_not_imported(strange_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="os:system") as caught:
        load(str(strange_model))
    assert "--trust-code" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_predict_asks_before_it_runs_code(
    strange_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(strange_model), str(tmp_path / "dataset")]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_the_remedy_runs_the_callable(strange_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):  # os:system makes no encoder
        load(str(strange_model), trust_code=True)
    assert (tmp_path / "ran").exists()
