"""torchvision's weights as they are downloaded, from a server on this machine in place of torchvision's."""

from __future__ import annotations

import functools
import gc
import hashlib
import http.server
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import ShuffleNet_V2_X0_5_Weights

from stray.config import TorchvisionConfig
from stray.errors import InputError
from stray.models.image_encoder import ImageEncoder

NAME = "shufflenet_v2_x0_5"
CONFIG = TorchvisionConfig(name=NAME, weights="DEFAULT")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that is served, and its address; torch keeps what it downloads under `tmp_path`."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()
    # torch leaves the socket of a download that failed to the garbage collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def trained() -> torch.nn.Module:
    torch.manual_seed(7)
    return torchvision.models.get_model(NAME)


def offered(folder: Path) -> str:
    """The name of a file of weights, which ends in the beginning of its hash as torchvision's do."""
    torch.save(trained().state_dict(), folder / "whole")
    digest = hashlib.sha256((folder / "whole").read_bytes()).hexdigest()
    return (folder / "whole").rename(folder / f"{NAME}-{digest[:8]}.pth").name


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShuffleNet_V2_X0_5_Weights.DEFAULT.value, "url", url)


def test_default_weights_are_downloaded_once_and_are_those_of_the_encoder(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    name = offered(folder)
    point_to(f"{address}/{name}", monkeypatch)
    encoder = ImageEncoder(CONFIG)
    expected = {key: value for key, value in trained().state_dict().items() if not key.startswith("fc.")}
    found = {key.removeprefix("backbone."): value for key, value in encoder.state_dict().items()}
    assert expected
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    (kept,) = (tmp_path / "torch_home").rglob("*.pth")
    assert kept.name == name
    (folder / name).unlink()  # it is not asked for again
    ImageEncoder(CONFIG)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("fault", ["nobody answers", "it is not there", "it was cut off on its way"])
def test_weights_that_cannot_be_downloaded_are_an_error_with_its_remedy(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    folder, address = server
    name = offered(folder)
    if fault == "nobody answers":
        address = "http://127.0.0.1:9"
    elif fault == "it is not there":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    point_to(f"{address}/{name}", monkeypatch)
    with pytest.raises(InputError, match="could not be downloaded") as caught:
        ImageEncoder(CONFIG)
    (problem,) = caught.value.problems
    assert problem.place == "contrastive.image.weights"
    assert "give the file's path" in problem.remedy
