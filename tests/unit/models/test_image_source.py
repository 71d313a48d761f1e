"""Keys know the content behind the image settings: weights, files that options name, and the code of callables."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
import torchvision

from stray.config import CallableConfig, TorchvisionConfig
from stray.errors import InputError
from stray.models.backbones import build_backbone
from stray.models.image_source import image_source


def weights(path: Path, seed: int) -> TorchvisionConfig:
    """Weights of one size, in a file whose time of change says nothing."""
    torch.manual_seed(seed)
    path.write_bytes(torch.randn(100).numpy().tobytes())
    return TorchvisionConfig(weights=str(path))


def test_replaced_weights_are_another_source_and_equal_bytes_the_same(tmp_path: Path) -> None:
    config = weights(tmp_path / "w.pt", 1)
    before = image_source(config)
    os.utime(tmp_path / "w.pt", ns=(1, 1))
    assert image_source(config) == before
    weights(tmp_path / "w.pt", 2)
    assert image_source(config) != before


def test_a_missing_file_and_an_unknown_network_are_left_to_whoever_builds_the_encoder() -> None:
    assert image_source(TorchvisionConfig(weights="/no/such/file"))
    assert image_source(TorchvisionConfig(weights="a\0b"))
    assert image_source(TorchvisionConfig(name="resnet_none", weights="DEFAULT"))
    assert image_source(CallableConfig(factory="no_such_module:net"))


def test_torchvisions_own_weights_are_known_by_their_address() -> None:
    assert image_source(TorchvisionConfig(weights="DEFAULT")) != image_source(TorchvisionConfig())


def test_a_file_that_options_name_belongs_to_the_source(tmp_path: Path) -> None:
    config = CallableConfig(factory="torch.nn:Identity", options={"args": [{"path": str(tmp_path / "w.bin")}]})
    (tmp_path / "w.bin").write_bytes(b"one")
    before = image_source(config)
    (tmp_path / "w.bin").write_bytes(b"another")
    assert image_source(config) != before


@pytest.mark.parametrize("changed", ["own_net.py", "own_layers.py", "own_package/blocks/conv.py"])
def test_changed_code_is_another_source_also_in_what_the_callable_imports(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_package" / "blocks").mkdir(parents=True)
    (tmp_path / "own_package" / "__init__.py").write_text("from own_package.blocks import conv\n")
    (tmp_path / "own_package" / "blocks" / "conv.py").write_text("WIDTH = 1\n")
    (tmp_path / "own_layers.py").write_text("def layer():\n    import own_package\n")
    # Nothing of it may run: it would raise.
    (tmp_path / "own_net.py").write_text("import own_layers\nraise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = CallableConfig(factory="own_net:net")
    before = image_source(config)
    assert image_source(config) == before
    with (tmp_path / changed).open("a") as file:
        file.write("# changed\n")
    assert image_source(config) != before


def test_an_installed_callable_is_known_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CallableConfig(factory="torchvision.models:resnet18")
    before = image_source(config)
    real = __import__("importlib.metadata").metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99" if name == "torchvision" else real(name))
    assert image_source(config) != before


@pytest.mark.parametrize(
    "kind",
    ["pickle", "code", "text", "empty", "truncated", "list", "tensor", "module", "wrapped", "numbers", "nothing"],
)
def test_weights_that_are_no_state_dict_are_an_error_with_a_remedy(kind: str, tmp_path: Path) -> None:
    path, model = tmp_path / "w.pt", torchvision.models.resnet18()
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps({"a": 1}))
        case "code":
            path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            torch.save(model.state_dict(), path)
            path.write_bytes(path.read_bytes()[:100_000])
        case _:
            held = {
                "list": [torch.zeros(1)],
                "tensor": torch.zeros(3),
                "module": model,
                "wrapped": {"state_dict": model.state_dict(), "epoch": 3},
                "numbers": {"fc.weight": 1.0},
                "nothing": {},
            }
            torch.save(held[kind], path)
    for config in (
        TorchvisionConfig(weights=str(path)),
        CallableConfig(factory="torchvision.models:resnet18", weights=str(path)),
    ):
        with pytest.raises(InputError) as raised:
            build_backbone(config)
        (problem,) = raised.value.problems
        assert problem.place == "contrastive.image.weights"
        assert str(path) in problem.what
        assert "torch.save" in problem.remedy
    assert not (tmp_path / "ran").exists()


def test_the_remedy_for_a_wrapped_state_dict_works(tmp_path: Path) -> None:
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    torch.save({"state_dict": torchvision.models.resnet18().state_dict(), "epoch": 3}, old)
    with pytest.raises(InputError, match=r"torch\.save\(torch\.load\(OLD\)\['state_dict'\], NEW\)"):
        build_backbone(TorchvisionConfig(weights=str(old)))
    torch.save(torch.load(old)["state_dict"], new)
    build_backbone(TorchvisionConfig(weights=str(new)))
