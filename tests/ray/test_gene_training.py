"""scANVI on two real Ray Train workers, both of which are killed with SIGKILL, one after the other."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch

from stray.config import Recipe, RunConfig
from stray.on_ray.assignment import Assignment
from stray.on_ray.data import Placed, place_counts
from stray.on_ray.events import Event, Metrics, Note, listen
from stray.on_ray.panels import fit_panels
from stray.on_ray.pool import fit
from stray.on_ray.resources import SlotPlan
from stray.on_ray.session import SessionInfo
from stray.recipe import apply
from stray.stages.spec import GeneStage
from tests.support.small_cohort import small_cell, small_dataset, small_recipe

# Half a minute on quiet cores: among the slow ones, which `.ci/run` runs too.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(600)]
EPOCHS = 24
TIMES = ("spots_per_second", "waiting_for_data_share", "peak_memory_gib")
"""Metrics that no seed decides."""


class Announced(dict[str, Any]):
    """What was placed; a worker that takes it writes down which process holds its rank."""

    def __init__(self, placed: dict[str, Any], folder: str) -> None:
        super().__init__(placed)
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Announced, (dict(self), self.folder)

    def __getitem__(self, key: str) -> Any:
        rank = ray.train.get_context().get_world_rank()
        (Path(self.folder) / f"{os.getpid()}.partial").write_text(str(os.getpid()))
        (Path(self.folder) / f"{os.getpid()}.partial").rename(Path(self.folder) / f"rank-{rank}")
        return super().__getitem__(key)


class Killer:
    """Hears the workers; kills rank 1 once epoch 3 is over, and rank 0 of the group that goes on three epochs later."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.killed: list[tuple[int, int]] = []
        self.resumed: list[int] = []
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event.content:
                case Note(text) if text.startswith("resumed after epoch"):
                    self.resumed.append(int(text.split()[-1]))
                case Metrics(values, int(step)) if "gene/loss" in values:
                    self._after(step)

    def _after(self, epoch: int) -> None:
        if not self.killed and epoch >= 3:
            self._kill(1)
        elif len(self.killed) == 1 and self.resumed and epoch >= self.resumed[0] + 3:
            self._kill(0)

    def _kill(self, rank: int) -> None:
        pid = int((self._folder / f"rank-{rank}").read_text())
        os.kill(pid, signal.SIGKILL)
        self.killed.append((rank, pid))


class Setup:
    """A cohort whose panel is fitted and whose counts are placed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = small_dataset(folder)
        cell = small_cell(self.recipe(), self.dataset, root=str(folder / "whole"))
        fit_panels(self.dataset, [cell])
        panel = cell.scored.gene.panel()
        self.panel_file = Path(cell.scored.gene.panel_path)
        self.counts = {panel.key: place_counts(self.dataset, panel, cell.fold.train)}

    def recipe(self) -> Recipe:
        """Everything that is decided on the way is on: the best weights, plateaus, balanced classes."""
        changes = {
            "gene.model": {"kind": "scanvi", "n_latent": 5, "n_hidden": 32, "balanced": True, "kl_warmup_share": 0.2},
            "gene.epochs": EPOCHS,
            "gene.keep": "best",
            "gene.optim": {"lr": 5e-3, "schedule": "plateau", "plateau_patience": 2},
        }
        return apply(small_recipe(self.folder), changes)

    def train(self, name: str, hear: Any, *, failures: int) -> GeneStage:
        """scANVI on two workers, with results in a place of its own."""
        stage = small_cell(self.recipe(), self.dataset, root=str(self.folder / name)).scored.gene
        target = Path(stage.panel_path)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(self.panel_file.read_bytes())
        ranks = self.folder / f"{name}-ranks"
        ranks.mkdir()
        placed = Placed(self.dataset, (), Announced(self.counts, str(ranks)))
        with listen(hear(ranks)) as events:
            fit(
                [Assignment(stage=stage, placed=placed, title=name)],
                plan=SlotPlan(1, 2, 1),
                run=RunConfig(max_failures=failures),
                root=str(self.folder / "checkpoints" / name),
                events=events,
            )
        return stage


@pytest.fixture(scope="module")
def setup(ray_session: SessionInfo, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("gene"))


def history(stage: GeneStage) -> list[dict[str, float]]:
    """The curves, without the times."""
    epochs = stage.folder.read_json("history.json")
    return [{name: value for name, value in epoch.items() if name not in TIMES} for epoch in epochs]


def test_both_workers_killed_at_different_times_end_with_the_weights_of_an_uninterrupted_training(
    setup: Setup,
) -> None:
    whole = setup.train("whole", lambda ranks: lambda event: None, failures=0)
    killers: list[Killer] = []

    def hear(ranks: Path) -> Killer:
        killers.append(Killer(ranks))
        return killers[0]

    # Two workers are lost, one at a time: a budget of two is just enough.
    killed = setup.train("killed", hear, failures=2)
    (killer,) = killers
    assert [rank for rank, _ in killer.killed] == [1, 0]
    assert len({pid for _, pid in killer.killed}) == 2
    first, second = sorted(set(killer.resumed))
    assert 0 < first < second < EPOCHS
    assert whole.learns_labels
    assert len(history(whole)) == EPOCHS
    assert history(killed) == history(whole)
    expected, found = (stage.folder.read_weights("weights.pt") for stage in (whole, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (killed.folder.read_array("codes.npy") == whole.folder.read_array("codes.npy")).all()
