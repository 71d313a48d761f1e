"""The comparison of quality with scvi-tools: that both implementations get the same data, settings and judge."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from jobs.benchmarks.command import main
from jobs.benchmarks.quality import scvi_tools
from jobs.benchmarks.quality.quality import Job, codes, root_of, train
from jobs.benchmarks.quality.scvi_tools import cohort, task_of
from jobs.benchmarks.quality.weights import copy_weights
from stray.cohort.dataset import PairedDataset
from stray.config import ScviConfig
from stray.data.local import LocalData
from stray.stages.gene.task import kl_weight
from stray.stages.spec import GeneStage
from tests.support.benchmarks_at_hand import prepared_jobs, small_comparison

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """scvi-tools' job of the first fold and seed; nothing is trained yet."""
    folder = tmp_path_factory.mktemp("parity")
    return prepared_jobs(small_comparison(folder), folder / "results")[1]


class Seen:
    """What scvi-tools trained on: every step's batches, and its KL weight."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: type) -> None:
        self.steps: list[tuple[int, list[dict[str, torch.Tensor]], float]] = []
        original = plan.training_step  # pyright: ignore[reportAttributeAccessIssue]

        def step(this: Any, batch: Any, index: int) -> Any:
            parts = batch if isinstance(batch, (tuple, list)) else [batch]
            self.steps.append((this.current_epoch, list(parts), float(this.kl_weight)))
            return original(this, batch, index)

        monkeypatch.setattr(plan, "training_step", step)

    def rows(self, epoch: int, part: int) -> np.ndarray:
        """Counts, batch and class (columns) of the epoch's spots, in an order of their own."""
        found = [parts[part] for at, parts, _ in self.steps if at == epoch]
        return ordered(np.concatenate([np.hstack([one["X"], one["batch"], one["labels"]]) for one in found]))


def ordered(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def expected(stage: GeneStage, counts: Any, positions: np.ndarray, *, labels: bool) -> np.ndarray:
    """The same of stray's spots at `positions`; scvi-tools numbers spots without a class after all classes."""
    names, classes = np.unique(stage.batch), np.unique(stage.label[stage.label != ""])
    class_n = np.searchsorted(classes, stage.label[positions]) if labels else np.zeros(len(positions))
    class_n = np.where(labels & (stage.label[positions] == ""), len(classes), class_n)
    batch_n = np.searchsorted(names, stage.batch[positions])
    return ordered(np.hstack([counts.gather(positions).numpy(), batch_n[:, None], class_n[:, None]]))


def test_scvi_tools_trains_on_the_spots_batches_and_kl_weights_of_stray(job, monkeypatch) -> None:
    import scvi  # pyright: ignore[reportMissingImports]

    dataset = PairedDataset.open(job.dataset)
    scvi_stage, scanvi_stage = (one.scored.gene for one in job.cells)
    counts = LocalData(dataset).counts(scvi_stage.panel(), scvi_stage.rows)
    task = task_of(scvi_stage, counts)

    seen = Seen(monkeypatch, scvi.train.TrainingPlan)
    train("scvi-tools", scvi_stage, dataset, job.root)
    assert {epoch for epoch, _, _ in seen.steps} == {0, 1}
    for epoch in (0, 1):
        assert np.array_equal(seen.rows(epoch, 0), expected(scvi_stage, counts, task.trains, labels=False))
        assert sorted(len(p[0]["X"]) for e, p, _ in seen.steps if e == epoch) == sorted(task.plan.sizes())
    assert_same_weights(scvi_stage, seen, task.plan.steps)

    seen = Seen(monkeypatch, scvi.train.SemiSupervisedTrainingPlan)
    train("scvi-tools", scanvi_stage, dataset, job.root)
    task = task_of(scanvi_stage, counts)
    known = np.flatnonzero(scanvi_stage.label != "")
    assert len(np.intersect1d(known, task.held_out)), "no labelled spot is held out of the ELBO: the test shows nothing"
    for epoch in (0, 1, 2):
        assert np.array_equal(seen.rows(epoch, 0), expected(scanvi_stage, counts, task.trains, labels=True))
        shown = np.unique(seen.rows(epoch, 1), axis=0)
        assert np.array_equal(shown, np.unique(expected(scanvi_stage, counts, known, labels=True), axis=0))
    assert_same_weights(scanvi_stage, seen, task.plan.steps)


def assert_same_weights(stage: GeneStage, seen: Seen, steps: int) -> None:
    model = stage.config.model
    assert isinstance(model, ScviConfig)
    ours = [kl_weight(model, i // steps, stage.epochs, i) for i in range(stage.epochs * steps)]
    assert [weight for _, _, weight in seen.steps] == pytest.approx(ours, rel=1e-6)
    assert max(ours) > min(ours)


@pytest.mark.parametrize("which", [0, 1], ids=["scVI", "scANVI"])
def test_copied_weights_give_the_elbo_and_the_codes_of_scvi_tools(job, which, monkeypatch) -> None:
    """Before training and after it, when the batch norms hold statistics."""
    dataset = PairedDataset.open(job.dataset)
    stage = job.cells[which].scored.gene
    if which:
        train("scvi-tools", stage.start, dataset, job.root)
    counts = LocalData(dataset).counts(stage.panel(), stage.rows)
    task = task_of(stage, counts)
    model = scvi_tools._model(stage, counts, task, root_of(job.root, "scvi-tools"))
    for trained in (False, True):
        if trained:
            model.train(**scvi_tools._training(stage, task))
        model.is_trained_ = True
        model.module.eval()
        copy_weights(model.module, task.module)
        batch = torch.from_numpy(np.searchsorted(task.names, stage.batch)[task.held_out])
        task.module.eval()
        ours = float(task.module.loss(counts.entries(task.held_out), batch, None).elbo_n.mean())
        with monkeypatch.context() as patch:
            patch.setattr(torch.distributions.normal, "_standard_normal", lambda shape, **kw: torch.zeros(shape))
            theirs = float(model.get_elbo(indices=task.held_out))
        latent = model.get_latent_representation(indices=task.held_out)
        assert np.allclose(latent, codes(task, counts)[task.held_out], rtol=1e-4, atol=1e-5)
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_anndata_of_scvi_tools_is_the_stage(job) -> None:
    stage = job.cells[1].scored.gene
    counts = LocalData(PairedDataset.open(job.dataset)).counts(stage.panel(), stage.rows)
    data = cohort(stage, counts, task_of(stage, counts))
    assert data.shape == (len(stage.rows), len(stage.panel()))
    x: Any = data.X
    assert np.array_equal(x.toarray(), counts.gather(np.arange(len(counts))).numpy())
    assert data.obs["batch"].tolist() == stage.batch.tolist()
    assert data.obs["label"].tolist() == [name or scvi_tools.UNLABELLED for name in stage.label]


def test_the_whole_comparison_runs_prints_and_goes_on(tmp_path, capsys) -> None:
    small_comparison(tmp_path)
    changes = [f"dataset={tmp_path}/dataset", f"output={tmp_path}/runs"]
    command = ["quality", str(tmp_path / "benchmark.yaml"), "--markdown", "--workers", "2"]
    command += [word for change in changes for word in ("--set", change)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for method in ("scvi", "scanvi"):
        for side in ("stray", "scvi-tools"):
            assert f"| {method} | {side} | -" in printed
    folder = tmp_path / "runs" / "benchmark" / "quality"
    tree = json.loads((folder / "quality.json").read_text())
    assert len(tree["results"]) == 2 * 2 * 2 * 2
    files = {file: file.stat().st_mtime_ns for file in (folder / "results").iterdir()}
    removed = sorted(files)[0]
    removed.unlink()
    assert main(command) == 0
    assert capsys.readouterr().out == printed
    again = {file: file.stat().st_mtime_ns for file in (folder / "results").iterdir()}
    assert {file for file in files if files[file] != again[file]} == {removed}
