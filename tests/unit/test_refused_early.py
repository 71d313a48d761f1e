"""A wrong folder or a patch size that does not fit is refused by the command line before Ray is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import ray

from stray.cli import main
from stray.cohort.build import build_dataset
from stray.config import PatchConfig, TorchvisionConfig
from stray.errors import InputError
from stray.models.image_encoder import ImageEncoder
from stray.recipe import load_recipe
from stray.stages.contrastive.patch_size import check_patch_size
from tests.support.small_model import small_model
from tests.support.tiny import PATCH, config_of, make_h5ad

VIT = "contrastive.image={kind: torchvision, name: vit_b_16, weights: DEFAULT, size_px: 64}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with patches of 16 pixels, and a model for patches of 32."""
    folder = tmp_path_factory.mktemp("early")
    make_h5ad("A1", "A", seed=1).write_h5ad(folder / "A1.h5ad")
    build_dataset(config_of(folder / "A1.h5ad"), str(folder / "dataset"))
    small_model(folder / "model", PatchConfig(size_um=PATCH.size_um, size_px=32))
    return folder


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "problem" in text
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("setting", "where", "what"),
    [
        ("contrastive.image.name=alexnet", "contrastive.image.name", "alexnet cannot code patches of 16 x 16 pixels"),
        ("contrastive.image.name=resnet81", "contrastive.image.name", "no classification model called 'resnet81'"),
        ("contrastive.image={name: vit_b_16, size_px: 50}", "contrastive.image.size_px", "pictures of 50 pixels"),
        (VIT, "contrastive.image.size_px", "the weights of vit_b_16 are for pictures of 224 pixels, found 64"),
        ("methods.one.set.contrastive.image.name=vgg11", "methods.one.set.contrastive.image.name", "vgg11 cannot code"),
        ("methods.raw={train: nothing, set: {contrastive.image.name: vgg11}}", "methods.raw.set", "vgg11 cannot code"),
    ],
)
def test_an_encoder_that_cannot_take_the_patches_is_refused(
    setting: str, where: str, what: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--set", f"dataset={place}/dataset", "--set", f"output={tmp_path}", "--set", setting]
    for verb in (["train", "smoke"], ["train", "smoke", "--plan"]):
        text = refused([*verb, *sets], capsys)
        assert where in text
        assert what in text
    assert not list(tmp_path.iterdir())


def test_a_search_whose_space_holds_an_encoder_that_cannot_take_the_patches_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = "search.space={contrastive.image.name: {kind: choice, values: [resnet18, alexnet, vgg11]}}"
    sets = ["--set", f"dataset={place}/dataset", "--set", f"output={tmp_path}", "--set", space]
    text = refused(["search", "smoke", *sets], capsys)
    assert "2 problems" in text
    assert "search.space.contrastive.image.name: alexnet cannot code" in text


def test_a_demo_whose_patches_are_too_small_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--set", "ingest.patch.size_px=8", "--set", "contrastive.image.name=alexnet"]
    assert "alexnet cannot code patches of 8 x 8 pixels" in refused(["demo", "--out", str(tmp_path), *sets], capsys)


@pytest.mark.parametrize("verb", ["train", "search", "evaluate"])
def test_a_folder_that_is_no_dataset_is_refused(
    verb: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused([verb, "smoke", "--set", f"dataset={place}/model", "--set", f"output={tmp_path}"], capsys)
    assert "this is not a paired dataset" in text


@pytest.mark.parametrize("verb", ["predict", "embed"])
@pytest.mark.parametrize("address", [None, "127.0.0.1:1"])
def test_a_model_and_a_dataset_that_do_not_fit_are_refused(
    verb: str,
    address: str | None,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    out = ["--out", str(tmp_path / "out.parquet")]
    model, dataset = str(place / "model"), str(place / "dataset")
    assert "--patch-um 160 --patch-px 32" in refused([verb, model, dataset, *out], capsys)
    assert "no result of stray, or incomplete" in refused([verb, dataset, dataset, *out], capsys)
    assert "does not exist" in refused([verb, str(tmp_path / "none"), dataset, *out], capsys)
    assert "this is not a paired dataset" in refused([verb, model, model, *out], capsys)
    assert not list(tmp_path.iterdir())


def test_ray_is_not_even_imported_for_what_is_refused(place: Path, tmp_path: Path) -> None:
    script = "import sys; from stray.cli import main; code = main(sys.argv[1:]); assert 'ray' not in sys.modules, code"
    words = ["train", "smoke", "--set", f"dataset={place}/dataset", "--set", "contrastive.image.name=alexnet"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "alexnet cannot code patches" in done.stderr


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "squeezenet1_1", "swin_t", "resnet18"])
@pytest.mark.parametrize("size_px", [1, 16, 24])
def test_the_check_without_storage_agrees_with_the_encoder(name: str, size_px: int) -> None:
    recipe = load_recipe(None, [f"contrastive.image.name={name}"])

    def fits(check) -> bool:
        try:
            check()
        except InputError:
            return False
        return True

    encoder = ImageEncoder(TorchvisionConfig(name=name))
    assert fits(lambda: check_patch_size(recipe, size_px)) == fits(lambda: encoder.check(size_px, size_px))


def test_an_encoder_that_only_a_worker_can_build_is_left_to_it() -> None:
    check_patch_size(load_recipe(None, ["contrastive.image.name=regnet_y_400mf"]), 1)
    check_patch_size(load_recipe(None, ["contrastive.image={kind: callable, factory: 'no.such:thing'}"]), 1)
