"""The benchmark of the gene stage, on a matrix that is trained in no time."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.benchmarks.command import main
from jobs.benchmarks.gene.compare import Measured, compare, drawn, of_cohort, ratios
from jobs.benchmarks.gene.implementation import IMPLEMENTATIONS
from jobs.benchmarks.gene.profile import time_by_part
from stray.cohort.panel import fit_panel
from stray.config import PanelConfig
from stray.data.local import LocalData
from stray.stages.gene.task import GeneTask
from tests.support.small_cohort import small_dataset


def test_the_drawn_matrix_is_as_sparse_as_tissue_and_the_same_every_time() -> None:
    counts, batch = drawn(2_000, 2_000, 8)
    assert 0.10 < counts.nnz / (2_000 * 2_000) < 0.12
    again, _ = drawn(2_000, 2_000, 8)
    assert abs(counts - again).max() == 0
    assert counts.dtype == np.uint16
    assert len(set(batch.tolist())) == 8


@pytest.mark.slow
def test_contenders_train_in_turn_each_round_and_tell_their_speed_and_memory() -> None:
    names = ["stray", "products", "products, sparse first layer"]
    runs: list[tuple[str, int]] = []
    counts, batch = drawn(300, 40, 2)
    measured = compare(
        names, counts, batch, rounds=2, epochs=1, threads=1, on_run=lambda name, number: runs.append((name, number))
    )
    assert [one.name for one in measured] == names
    assert sorted(runs) == sorted((name, number) for name in names for number in (0, 1))
    assert runs[0][0] != runs[3][0], "the rounds begin with different implementations"
    for one in measured:
        assert len(one.rates) == 2
        assert min(one.rates) > 0
        assert 0 <= one.training_bytes < one.peak_bytes
    stray, products, _ = measured
    assert products.spots_per_second > stray.spots_per_second, "products alone are faster than all that stray does"


def test_the_matrix_of_a_cohort_is_its_counts_over_the_panel_with_the_patients(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path)
    config = PanelConfig(kind="mean", n_genes=12)
    counts, batch = of_cohort(str(dataset.path), config)
    panel = fit_panel(dataset, tuple(sorted(set(dataset.spots().patient))), config)
    rows = np.arange(len(dataset.spots()))
    assert batch.tolist() == dataset.spots().patient.tolist()
    held = LocalData(dataset).counts(panel, rows).gather(rows).numpy()
    np.testing.assert_array_equal(counts.toarray(), held)


def test_each_contender_of_stray_multiplies_in_the_precision_of_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[str]()
    step = GeneTask.step
    monkeypatch.setattr(
        GeneTask, "step", lambda *given: (seen.append(torch.get_float32_matmul_precision()), step(*given))[1]
    )
    counts, batch = drawn(200, 30, 2)
    for name in ("stray", "stray, fp32"):
        IMPLEMENTATIONS[name](counts, batch, 1)
    assert seen == ["medium", "medium", "highest", "highest"]


def test_the_profile_of_a_step_names_every_operations_part() -> None:
    threads = torch.get_num_threads()
    shares = time_by_part(*drawn(300, 200, 2), 1)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(share for name, share in shares.items() if name != "the rest") > 0
    assert shares["the rest"] < 0.5, "operations that the parts do not know"
    assert torch.get_num_threads() == threads


def test_a_contender_that_fails_ends_the_race_with_its_own_words() -> None:
    counts, batch = drawn(300, 40, 2)
    with pytest.raises(RuntimeError, match="invalid choice: 'nobody'"):
        compare(["nobody"], counts, batch, rounds=1, epochs=1, threads=1, on_run=lambda name, number: None)


def test_ratios_compare_within_rounds() -> None:
    fast, slow = Measured("a", (30.0, 20.0, 90.0), 0, 0), Measured("b", (10.0, 10.0, 30.0), 0, 0)
    assert ratios(fast, slow) == (3.0, 2.0, 3.0)


def test_without_scvi_tools_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["gene", "--against", "scvi-tools"]) == 2
    assert "pip install 'stray-st[parity]'" in capsys.readouterr().err
