"""Folders of results that were damaged after they were finished are seen, and made anew; keys know their content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import Panel
from stray.config import PatchConfig, Recipe, TorchvisionConfig
from stray.data.local import LocalData
from stray.errors import InputError
from stray.experiment.cells import Cell, Group
from stray.metrics.probe import Probe
from stray.models.towers import image_coder
from stray.recipe import apply
from stray.stages import results
from stray.stages.contrastive import exported as model_folder
from stray.stages.gene.encoder import load_gene_encoder
from stray.stages.results import DONE, ResultFolder
from stray.stages.run import run_stage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, small_cell, small_recipe

DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "flipped": lambda path: path.write_bytes(flip(path.read_bytes())),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def flip(content: bytes) -> bytes:
    """One bit of the last byte but one, which lies in the data of every file."""
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


def run(cell: Cell, dataset: PairedDataset) -> list[str]:
    """The kinds of stages that are trained now."""
    stages = Group((cell,)).stages()
    for stage in stages:
        run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
    return [type(stage).__name__ for stage in stages]


@pytest.fixture(scope="module")
def trained(dataset: PairedDataset, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A root with both stages of a cell, and its recipe."""
    root = tmp_path_factory.mktemp("trained")
    recipe = apply(small_recipe(folder), {"gene.epochs": 1, "contrastive.epochs": 1})
    assert run(prepared_cell(recipe, dataset, root), dataset) == ["GeneStage", "ImageStage"]
    return root, recipe


@pytest.fixture
def cell(trained: tuple[Path, Recipe], dataset: PairedDataset, tmp_path: Path) -> Cell:
    """The cell of `trained` with results that a test may damage."""
    shutil.copytree(trained[0], tmp_path / "root")
    return small_cell(trained[1], dataset, root=str(tmp_path / "root"))


def test_done_names_every_file_with_its_size_and_digest_and_whole_results_are_kept(
    cell: Cell, dataset: PairedDataset
) -> None:
    for stage in (cell.scored, cell.scored.gene):
        place = Path(stage.folder.path)
        listed = stage.folder.facts()["files"]
        assert set(listed) == {path.name for path in place.iterdir()} - {DONE}
        assert {name: entry["bytes"] for name, entry in listed.items()} == {
            n: (place / n).stat().st_size for n in listed
        }
    assert Group((cell,)).damage() == {}
    assert run(cell, dataset) == []


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["features.npy", "rows.npy", "history.json", "encoder.pt", "config.json"])
def test_a_damaged_file_of_an_image_stage_is_said_and_makes_the_stage_undone(cell: Cell, name: str, how: str) -> None:
    DAMAGE[how](Path(cell.scored.folder.path) / name)
    assert not cell.scored.folder.is_done()
    assert Group((cell,)).stages() == (cell.scored,)
    (what,) = Group((cell,)).damage().values()
    assert name in what


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["codes.npy", "panel.json", "weights.pt", "history.json"])
def test_a_damaged_gene_stage_is_made_anew_also_where_the_image_stage_stands(cell: Cell, name: str, how: str) -> None:
    place = Path(cell.scored.gene.folder.path)
    DAMAGE[how](place / name)
    assert Group((cell,)).stages() == (cell.scored.gene,)
    assert name in Group((cell,)).damage()[str(place)]
    with pytest.raises(InputError, match=f"is damaged: .*{name}(.|\n)*remedy: run the `stray train` command"):
        load_gene_encoder(str(place))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"null", b'{"stray": "1", "files": {"a": 3}}', b"\xff\xfe"]
)
def test_a_mark_that_is_damaged_is_said_and_marks_nothing(cell: Cell, content: bytes) -> None:
    (Path(cell.scored.folder.path) / DONE).write_bytes(content)
    assert not cell.scored.folder.is_done()
    (what,) = Group((cell,)).damage().values()
    assert DONE in what


def test_what_is_made_anew_equals_what_was_there(cell: Cell, dataset: PairedDataset) -> None:
    image, gene = cell.scored.folder, cell.scored.gene.folder
    features, codes = image.read_array("features.npy"), gene.read_array("codes.npy")
    DAMAGE["flipped"](Path(image.path) / "features.npy")
    DAMAGE["truncated"](Path(gene.path) / "codes.npy")
    assert run(cell, dataset) == ["GeneStage", "ImageStage"]
    assert Group((cell,)).damage() == {}
    np.testing.assert_array_equal(image.read_array("features.npy"), features)
    np.testing.assert_array_equal(gene.read_array("codes.npy"), codes)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_panel_is_said(cell: Cell, how: str) -> None:
    DAMAGE[how](Path(cell.scored.gene.panel_path))
    assert cell.scored.gene.panel_damage() is not None
    assert cell.scored.gene.panel_path in Group((cell,)).damage()


def test_a_panel_comes_back_as_it_was_and_one_of_an_earlier_version_too() -> None:
    panel = Panel(("A", "B"), (0, 1))
    assert Panel.from_json(panel.to_json()) == panel
    assert Panel.from_json('{"symbols": ["A", "B"], "index": [0, 1]}') == panel


@pytest.mark.parametrize("how", ["truncated", "empty", "gone"])
def test_whoever_reads_a_file_past_the_mark_gets_an_error_with_its_place(cell: Cell, how: str) -> None:
    folder = cell.scored.folder
    for name, read in {
        "features.npy": folder.read_array,
        "history.json": folder.read_json,
        "encoder.pt": folder.read_weights,
    }.items():
        DAMAGE[how](Path(folder.path) / name)
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            read(name)


def test_a_folder_of_an_earlier_version_is_taken_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / DONE).write_text('{"stray": "0.1.0", "kind": "model"}')
    assert ResultFolder(str(tmp_path)).is_done()


def test_files_are_read_once_for_their_digest(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cell.scored.folder.is_done()
    monkeypatch.setattr(results, "file_sha256", lambda path: pytest.fail(f"reads {path} again"))
    assert cell.scored.folder.is_done()


def test_a_new_version_of_strays_results_finds_none_of_the_old(
    trained: tuple[Path, Recipe], dataset: PairedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        made = small_cell(trained[1], dataset, root="r")
        return [made.scored.key, made.scored.gene.key, made.scored.gene.panel_key, made.key]

    before = keys()
    assert keys() == before
    monkeypatch.setattr(results, "RESULTS", results.RESULTS + 1)
    assert not set(before) & set(keys())


@pytest.mark.parametrize("train", [True, False])
def test_replaced_weights_and_changed_code_make_another_stage(
    train: bool, trained: tuple[Path, Recipe], dataset: PairedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for changes, file in (
        ({"contrastive.image.weights": str(tmp_path / "w.pt")}, "w.pt"),
        ({"contrastive.image": {"kind": "callable", "factory": "made_net:net"}}, "made_net.py"),
    ):
        keys = []
        for content in ("first", "second"):
            (tmp_path / file).write_text(content)
            made = small_cell(apply(trained[1], changes), dataset, root="r", train=train)
            keys.append((made.scored.key, made.key))
        assert not set(keys[0]) & set(keys[1])


def save_model(path: Path, *, probed: bool) -> None:
    rng = np.random.default_rng(0)
    mean, scale, weight, bias = (rng.normal(size=size) for size in (512, 512, (2, 512), 2))
    probe = Probe(
        classes=("a", "b"),
        mean_D=mean,
        scale_D=scale,
        weight_KD=weight,
        bias_K=bias,
        c=1.0,
        inner_score=0.5,
        converged=True,
    )
    state = image_coder(TorchvisionConfig(), None).state_dict()
    made = probe if probed else None
    model_folder.save(str(path), state, TorchvisionConfig(), None, made, PatchConfig(), "name: x\n", {"method": "m"})


def test_a_model_without_a_probe_has_none_of_the_model_that_was_there_before(tmp_path: Path) -> None:
    save_model(tmp_path / "m", probed=True)
    assert model_folder.load(str(tmp_path / "m")).probe is not None
    save_model(tmp_path / "m", probed=False)
    assert model_folder.load(str(tmp_path / "m")).probe is None
    assert not (tmp_path / "m" / "probe.npz").exists()


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["probe.npz", "encoder.pt", "model.json", DONE])
def test_a_damaged_model_is_refused_with_a_remedy(name: str, how: str, tmp_path: Path) -> None:
    save_model(tmp_path, probed=True)
    DAMAGE[how](tmp_path / name)
    with pytest.raises(InputError, match="remedy"):
        model_folder.load(str(tmp_path))


def test_models_of_two_recipes_have_a_folder_each(trained: tuple[Path, Recipe], dataset: PairedDataset) -> None:
    from stray.on_ray.models import model_folder as place

    made = [
        small_cell(apply(trained[1], changes), dataset, root="r") for changes in ({}, {"contrastive.optim.lr": 0.5}, {})
    ]
    places = [place(cell, "out") for cell in made]
    assert places[0] == places[2] != places[1]
    assert all(folder.startswith("out/models/clip_scvi-seed0-") for folder in places)
