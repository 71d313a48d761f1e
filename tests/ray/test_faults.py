"""The contrastive stage and what can happen to it: workers and drivers killed with SIGKILL at a step that is drawn, a
changed number of workers, a full disk, a list of checkpoints that is lost.

The draw is printed; `STRAY_FAULT_SEED=N` repeats it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient

from stray.data.local import LocalData
from stray.errors import CheckpointWriteError
from stray.on_ray.assignment import Assignment
from stray.on_ray.checkpoints import PREFIX, STATE
from stray.on_ray.session import SessionInfo
from stray.recipe import apply
from stray.stages.contrastive.task import ContrastiveTask
from stray.stages.run import run_stage
from stray.stages.spec import GeneStage, ImageStage
from stray.track.mlflow_reader import MlflowReader
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.ray.test_training import EPOCHS, Heard, Setup

# Each test starts worker groups anew, a quarter of a minute each on quiet cores: `.ci/run` runs them too.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(1500)]
STEPS = 2
"""Steps of an epoch of the small cohort."""
HEARD_S = 5.0
"""Seconds in which Ray's controller, which asks every two, has heard of a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Killed(ImageStage):
    """A stage whose workers kill themselves with SIGKILL, once, before a step."""

    ranks: tuple[int, ...]
    at: tuple[int, int]  # pyright: ignore[reportIncompatibleMethodOverride]
    """Epoch and step, from 0."""
    marks: str
    """Folder in which a rank that was killed leaves a mark."""
    driver: int
    """The process that stays."""
    wait_s: float = 0.0
    """Seconds that a rank waits before it kills itself: a checkpoint counts once the controller has heard of it."""

    @staticmethod
    def of(stage: ImageStage, **facts: Any) -> Killed:
        known = {field.name: getattr(stage, field.name) for field in fields(ImageStage)}
        return Killed(**known, driver=os.getpid(), **facts)

    @property
    def inputs(self) -> tuple[GeneStage, ...]:
        """Asked for by every worker before it trains: the worker's own step is exchanged then."""
        if os.getpid() != self.driver:
            self._lay_trap()
        return super().inputs

    def _lay_trap(self) -> None:
        original = ContrastiveTask.step

        def step(task: ContrastiveTask, batch: Any, noise: Any) -> Any:
            import ray.train

            rank = ray.train.get_context().get_world_rank()
            mark = Path(self.marks) / f"rank-{rank}"
            if rank in self.ranks and (noise.epoch, noise.step) == self.at and not mark.exists():
                mark.write_text(str(os.getpid()))
                time.sleep(self.wait_s)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(task, batch, noise)

        setattr(ContrastiveTask, "step", step)  # noqa: B010  # its name for itself is `task`, as `self` is the arguments'


@pytest.fixture(scope="module")
def setup(ray_session: SessionInfo, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def whole(setup: Setup) -> Heard:
    """An uninterrupted training on two workers."""
    return setup.train(setup.image("whole"), "whole", workers=2)


def draw(most: int = EPOCHS) -> tuple[int, int]:
    """An epoch and a step of it, anew in every run of the tests."""
    seed = int(os.environ.get("STRAY_FAULT_SEED") or secrets.randbelow(2**16))
    epoch, step = np.random.default_rng(seed).integers([most, STEPS]).tolist()
    print(f"STRAY_FAULT_SEED={seed}: epoch {epoch}, step {step}")
    return epoch, step


def killed(
    setup: Setup, name: str, ranks: tuple[int, ...], at: tuple[int, int], wait_s: float = 0.0
) -> tuple[list[Assignment], Path]:
    marks = setup.folder / f"{name}-marks"
    marks.mkdir()
    stage = setup.cell(name).scored
    assert isinstance(stage, ImageStage)
    trapped = Killed.of(stage, ranks=ranks, at=at, marks=str(marks), wait_s=wait_s)
    assert trapped.key == stage.key
    return [Assignment(stage=trapped, placed=setup.placed, title=name)], marks


def assert_same(setup: Setup, name: str) -> None:
    expected, found = setup.weights("whole"), setup.weights(name)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def gone_on(heard: Heard) -> str:
    """What the workers said when they went on; nothing when no epoch was behind them."""
    noted = {note for note in heard.notes() if note.startswith("resumed after")}
    assert len(noted) <= 1
    return "".join(noted)


def after(epochs: int) -> str:
    return f"resumed after epoch {epochs}" if epochs else ""


@pytest.mark.parametrize("ranks", [(0,), (1,), (0, 1)], ids=["the first worker", "the second worker", "all workers"])
def test_workers_killed_at_any_step_end_with_the_weights_of_an_uninterrupted_training(
    setup: Setup, whole: Heard, ranks: tuple[int, ...]
) -> None:
    name, at = "killed-" + "-".join(map(str, ranks)), draw()
    assignments, marks = killed(setup, name, ranks, at)
    heard = setup.train(assignments, name, workers=2, failures=1)
    # A worker that waits for the first to die is ended before it comes to its own end.
    assert {path.name for path in marks.iterdir()} <= {f"rank-{rank}" for rank in ranks}
    assert list(marks.iterdir())
    # The controller may not have heard of the last checkpoint when a worker dies right after it.
    assert gone_on(heard) in {after(at[0]), after(max(at[0] - 1, 0))}
    assert_same(setup, name)
    for step, losses in heard.step_losses().items():
        assert set(losses) == set(whole.step_losses()[step])


def test_a_worker_killed_within_an_epoch_goes_on_at_the_step_that_was_checkpointed(setup: Setup, whole: Heard) -> None:
    epoch, _ = draw()
    assignments, marks = killed(setup, "within", (1,), (epoch, 1), wait_s=HEARD_S)
    heard = setup.train(assignments, "within", workers=2, failures=1, every_steps=1)
    assert [path.name for path in marks.iterdir()] == ["rank-1"]
    assert {note for note in heard.notes() if note.startswith("resumed after")} == {
        f"resumed after step 1 of epoch {epoch + 1}"
    }
    assert_same(setup, "within")
    # Losses are said at an epoch's end: those before the kill came with the checkpoint.
    assert {step: set(losses) for step, losses in heard.step_losses().items()} == {
        step: set(losses) for step, losses in whole.step_losses().items()
    }
    assert all(len(losses) == 1 for losses in heard.step_losses().values())


def test_a_training_goes_on_with_another_number_of_workers_and_keeps_the_count_of_epochs(
    setup: Setup, whole: Heard
) -> None:
    at = draw(EPOCHS - 1)
    at = (at[0] + 1, at[1])
    assignments, _ = killed(setup, "fewer", (1,), at, wait_s=HEARD_S)
    with pytest.raises(Exception, match=r"died|killed|SIGKILL|unavailable"):
        setup.train(assignments, "fewer", workers=2, failures=0)
    heard = setup.train(setup.image("fewer"), "fewer", workers=1, failures=0)
    assert gone_on(heard) == after(at[0])
    history = setup.cell("fewer").scored.folder.read_json("history.json")
    expected = setup.cell("whole").scored.folder.read_json("history.json")
    assert len(history) == len(expected) == EPOCHS
    assert sorted(heard.step_losses()) == list(range(STEPS * at[0], STEPS * EPOCHS))
    for epoch in range(EPOCHS):
        assert history[epoch]["learning_rate"] == expected[epoch]["learning_rate"]
    # The same weights meet the same batch; later, rounding is amplified.
    first = STEPS * at[0]
    assert heard.step_losses()[first] == pytest.approx(whole.step_losses()[first], rel=1e-3)
    assert [one["loss"] for one in history[: at[0]]] == [one["loss"] for one in expected[: at[0]]]


@pytest.fixture
def small_disk(setup: Setup) -> Iterator[Path]:
    """A file system of its own for checkpoints, too small for three of them and large enough for two."""
    stage = replace(setup.cell("sized").scored, config=apply(setup.recipe, {"contrastive.epochs": 1}).contrastive)
    checkpoint = setup.folder / "sized.pt"
    run_stage(stage, LocalData(setup.dataset), LocalWorker(checkpoint), MemoryTracker())
    place = setup.folder / "checkpoints" / "full"
    place.mkdir(parents=True)
    size = int(2.5 * checkpoint.stat().st_size)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip(f"only root may mount a small file system: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_keeps_the_checkpoint_before_whole_says_so_and_the_training_goes_on_once_there_is_room(
    setup: Setup, whole: Heard, small_disk: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(CheckpointWriteError, match="No space left on device") as caught:
        setup.train(setup.image("full"), "full", workers=2, failures=3)
    assert time.monotonic() - started < 600
    (problem,) = caught.value.problems
    assert str(small_disk) in problem.place
    assert "the previous one is complete" in problem.what
    assert "run the same command again" in problem.remedy
    # Two checkpoints are kept while the third is written: what was written of that is gone.
    (run,) = (small_disk / "checkpoints").iterdir()
    left = sorted(path for path in run.iterdir() if path.is_dir())
    assert [state.name for folder in left for state in folder.iterdir()] == [STATE] * 2
    epochs = [torch.load(folder / STATE, weights_only=True)["state"]["epoch"] for folder in left]
    assert epochs == [1, 2]
    assert str(left[-1]) in problem.what
    subprocess.run(["mount", "-o", "remount,size=1g", small_disk], check=True)
    heard = setup.train(setup.image("full"), "full", workers=2)
    assert gone_on(heard) == after(2)
    assert_same(setup, "full")


def test_checkpoints_are_found_without_rays_list_of_them_and_what_was_half_written_goes(
    setup: Setup, whole: Heard
) -> None:
    assignments, _ = killed(setup, "lost", (0,), (3, 1), wait_s=HEARD_S)
    with pytest.raises(Exception, match=r"died|killed|SIGKILL|unavailable"):
        setup.train(assignments, "lost", workers=2, failures=0)
    (run,) = (setup.folder / "checkpoints" / "lost" / "checkpoints").iterdir()
    assert sorted(path.name[: len(PREFIX)] for path in run.iterdir()) == [PREFIX] * 2
    # As a worker leaves it that is killed while it writes.
    torn = run / f"{PREFIX}2999-01-01_00-00-00.000000"
    torn.mkdir()
    (torn / f"{STATE}.0123abcd.partial").write_bytes(b"half")
    heard = setup.train(setup.image("lost"), "lost", workers=2)
    assert gone_on(heard) == after(3)
    assert not torn.exists()
    assert_same(setup, "lost")


def stray(folder: Path, name: str) -> list[str]:
    """The training of the smoke recipe's CLIP to scVI without one patient, with results at `name`."""
    # One worker, as there is one CPU beside the driver's; its checkpoints are of every epoch.
    sets = [f"dataset={folder}/dataset", f"output={folder}/{name}", f"contrastive.epochs={EPOCHS}", "run.workers=2"]
    sets += ["methods.clip_mlp=null", "methods.untrained=null", "run.cpus_per_worker=1"]
    words = [word for one in sets for word in ("--set", one)]
    return [sys.executable, "-m", "stray", "train", "smoke", "--folds", "P1", *words]


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.rglob(pattern)
    return found


def test_a_driver_killed_at_any_time_and_the_same_command_again_end_with_the_same_weights(
    setup: Setup, tmp_path: Path
) -> None:
    shutil.copytree(setup.folder / "dataset", tmp_path / "dataset")
    subprocess.run(stray(tmp_path, "whole"), check=True, capture_output=True, cwd=tmp_path)
    expected = torch.load(only(tmp_path / "whole", "encoder.pt"), weights_only=True)
    epoch, step = draw(EPOCHS - 3)  # epochs are short, and it must not end before it is killed
    driver = subprocess.Popen(stray(tmp_path, "killed"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path)
    family: list[psutil.Process] = []
    try:
        seen = set[int]()
        while max(seen, default=0) <= epoch:
            assert driver.poll() is None, "ended before it could be killed"
            time.sleep(0.05)
            note_epochs(seen, tmp_path / "killed")
        time.sleep(step * 0.05)  # into the next epoch
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    finally:
        driver.communicate()
    # Ray's processes end with the driver that started them.
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive
    assert not list((tmp_path / "killed").rglob("encoder.pt"))
    again = subprocess.run(stray(tmp_path, "killed"), check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "resumed after epoch" in again.stderr
    found = torch.load(only(tmp_path / "killed", "encoder.pt"), weights_only=True)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    history = json.loads(only(tmp_path / "killed", "image-*/history.json").read_text())
    assert len(history) == EPOCHS
    # Nor is an epoch's curve lost, or said twice.
    (run,) = MlflowReader(f"sqlite:///{tmp_path}/killed/mlflow.db", "smoke").runs({"stray.kind": "cell"})
    assert run.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{tmp_path}/killed/mlflow.db")
    for name, first, count in (("loss", 1, EPOCHS), ("step_loss", 0, STEPS * EPOCHS)):
        points = client.get_metric_history(run.run_id, f"contrastive/{name}")
        assert sorted(point.step for point in points) == list(range(first, first + count)), name


def note_epochs(seen: set[int], results: Path) -> None:
    """Add the epochs of the contrastive stage that have a checkpoint now, for whoever looks often enough."""
    # Not `rglob`, which raises where a folder goes as it looks.
    for folder, _, files in os.walk(results):
        if STATE in files:
            try:
                saved = torch.load(Path(folder) / STATE, weights_only=True)
            except (OSError, RuntimeError, EOFError):
                continue  # it goes
            if saved["stage"].startswith("image-"):
                seen.add(saved["state"]["epoch"])
