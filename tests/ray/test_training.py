"""The contrastive stage on real Ray Train workers, one of which is killed with SIGKILL."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
import pytest
import torch

from stray.cohort.dataset import PairedDataset
from stray.config import Recipe, RunConfig
from stray.errors import InputError, Problem
from stray.experiment.cells import Cell
from stray.on_ray import experiment
from stray.on_ray.assignment import Assignment
from stray.on_ray.data import Placed, place_counts, place_patches
from stray.on_ray.events import Event, Metrics, Note, listen
from stray.on_ray.experiment import results_held
from stray.on_ray.panels import fit_panels
from stray.on_ray.pool import fit
from stray.on_ray.resources import SlotPlan
from stray.on_ray.search import search
from stray.on_ray.session import SessionInfo
from stray.recipe import apply
from stray.stages.spec import GeneStage, ImageStage
from tests.support.small_cohort import small_cell, small_dataset, small_recipe

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(600)]
EPOCHS = 6


class Heard:
    """What the workers said, and a hook on each event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.epoch = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        match event.content:
            case Metrics(values, step=2) if "contrastive/loss" in values:
                self.epoch.set()

    def step_losses(self) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for event in self.events:
            match event.content:
                case Metrics({"contrastive/step_loss": loss}, int(step)):
                    found.setdefault(step, []).append(loss)
        return found

    def notes(self) -> list[str]:
        return [event.content.text for event in self.events if isinstance(event.content, Note)]


class Setup:
    """A cohort whose gene stage is done and whose patches are placed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = small_dataset(folder)
        self.recipe: Recipe = apply(small_recipe(folder), {"contrastive.epochs": EPOCHS})
        first = self.cell("whole")
        fit_panels(self.dataset, [first])
        panel = first.scored.gene.panel()
        counts = place_counts(self.dataset, panel, first.fold.train)
        self.placed: Placed = place_patches(self.dataset, RunConfig()).with_counts(panel.key, counts)
        gene = Assignment(stage=first.scored.gene, placed=self.placed, title="gene")
        self.train([gene], "gene", workers=1)

    def cell(self, name: str) -> Cell:
        """The same cell with results in a place of its own; the gene stage's results are shared."""
        made = small_cell(self.recipe, self.dataset, root=str(self.folder / name))
        shared = self.folder / "whole"
        for path in shared.glob("gene-*") if name != "whole" else ():
            (self.folder / name).mkdir(exist_ok=True)
            target = self.folder / name / path.name
            if not target.exists():
                target.symlink_to(path)
        return made

    def train(
        self,
        assignments: list[Assignment],
        name: str,
        *,
        workers: int,
        failures: int = 1,
        every_steps: int | None = None,
    ) -> Heard:
        heard = Heard()
        with listen(heard) as events:
            fit(
                assignments,
                plan=SlotPlan(1, workers, 1),
                run=RunConfig(max_failures=failures, checkpoint_every_steps=every_steps),
                root=str(self.folder / "checkpoints" / name),
                events=events,
            )
        return heard

    def image(self, name: str) -> list[Assignment]:
        return [Assignment(stage=self.cell(name).scored, placed=self.placed, title=name)]

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return self.cell(name).scored.folder.read_weights("encoder.pt")


@pytest.fixture(scope="module")
def setup(ray_session: SessionInfo, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def whole(setup: Setup) -> Heard:
    """An uninterrupted training on two workers."""
    return setup.train(setup.image("whole"), "whole", workers=2)


def worker_pids() -> list[int]:
    """The worker processes of this process's own cluster; other clusters may run on the machine."""
    mine = psutil.Process().children(recursive=True)
    return [process.pid for process in mine if process.name().startswith("ray::RayT")]


@pytest.mark.slow
def test_a_training_whose_worker_is_killed_ends_with_the_weights_of_an_uninterrupted_one(
    setup: Setup, whole: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    heard_epoch = threading.Event()
    original = Heard.__call__

    def hear(self: Heard, event: Event) -> None:
        original(self, event)
        if self.epoch.is_set():
            heard_epoch.set()

    monkeypatch.setattr(Heard, "__call__", hear)

    def kill() -> None:
        assert heard_epoch.wait(timeout=200)
        pids = worker_pids()
        assert len(pids) == 2, pids
        os.kill(pids[-1], signal.SIGKILL)
        killed.append(pids[-1])

    killer = threading.Thread(target=kill)
    killer.start()
    heard = setup.train(setup.image("killed"), "killed", workers=2)
    killer.join()
    assert killed
    assert any(note.startswith("resumed after epoch") for note in heard.notes())
    expected, found = setup.weights("whole"), setup.weights("killed")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    for step, losses in heard.step_losses().items():
        # What was trained twice, before the kill and after it, was the same twice.
        assert set(losses) == set(whole.step_losses()[step])


@pytest.mark.beside
@pytest.mark.slow
def test_one_worker_sees_the_batches_of_two(setup: Setup, whole: Heard) -> None:
    alone = setup.train(setup.image("alone"), "alone", workers=1)
    assert alone.step_losses().keys() == whole.step_losses().keys() == set(range(2 * EPOCHS))
    # One step from equal weights on equal batches gives equal losses; another draw of 32 of the 80 spots would not.
    # Later, rounding (sums over two workers) is amplified by a network that is not yet trained.
    for step, close in ((0, 1e-3), (1, 5e-3)):
        assert alone.step_losses()[step] == pytest.approx(whole.step_losses()[step], rel=close), step


def test_a_shard_that_cannot_be_read_is_named_with_its_row_group(setup: Setup) -> None:
    file = Path(setup.dataset.files()[0])
    content = file.read_bytes()
    try:
        # The size stays, so that opening the dataset does not notice, and so does the footer of the file.
        footer = int.from_bytes(content[-8:-4], "little") + 8
        file.write_bytes(content[:4] + bytes(len(content) - 4 - footer) + content[-footer:])
        broken = PairedDataset.open(setup.dataset.path)
        with pytest.raises(InputError, match=rf"{file.name}, row group 0"):
            place_patches(broken, RunConfig())
    finally:
        file.write_bytes(content)


@dataclass(frozen=True, kw_only=True)
class Faulty(ImageStage):
    """A stage of which one worker finds its input at fault while the others wait for it."""

    marks: str
    driver: int

    @property
    def inputs(self) -> tuple[GeneStage, ...]:
        if os.getpid() != self.driver:
            import ray.train

            if ray.train.get_context().get_world_rank() == 1:
                with open(self.marks, "a") as marks:
                    marks.write("tried\n")
                raise InputError(Problem("P2", "is at fault"))
        return super().inputs


@pytest.mark.beside
@pytest.mark.slow
def test_a_fault_of_the_input_that_one_worker_finds_is_not_tried_again(setup: Setup) -> None:
    stage, marks = setup.cell("faulty").scored, setup.folder / "tried"
    known = {field.name: getattr(stage, field.name) for field in fields(ImageStage)}
    faulty = Faulty(**known, marks=str(marks), driver=os.getpid())
    with pytest.raises(InputError, match="P2: is at fault"):
        setup.train([Assignment(stage=faulty, placed=setup.placed, title="faulty")], "faulty", workers=2, failures=3)
    assert marks.read_text() == "tried\n"


def test_a_fault_of_the_input_ends_the_training_at_once_whatever_failures_are_allowed(setup: Setup) -> None:
    from dataclasses import replace

    stage = setup.cell("failing").scored
    stage = replace(stage, config=apply(setup.recipe, {"contrastive.image.weights": "/no/such/file.pt"}).contrastive)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"no file '/no/such/file\.pt'"):
        setup.train([Assignment(stage=stage, placed=setup.placed, title="failing")], "failing", workers=1, failures=3)
    assert time.monotonic() - started < 120


@pytest.mark.parametrize("verb", ["train", "evaluate", "search"])
def test_commands_on_one_output_exclude_one_another(ray_session: SessionInfo, tmp_path: Path, verb: str) -> None:
    recipe = small_recipe(tmp_path, "name=shared")
    commands = {
        "train": lambda: experiment.run(recipe),
        "evaluate": lambda: experiment.run(recipe, train=False),
        "search": lambda: search(recipe),
    }
    with results_held(recipe, "train"), pytest.raises(InputError, match="shared: is in use by `stray train` of"):
        commands[verb]()
    # Free again, each gets as far as the dataset, which there is none of.
    with pytest.raises(InputError, match="there is no manifest"):
        commands[verb]()
