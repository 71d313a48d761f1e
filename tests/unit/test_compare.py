from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from stray.cli import main
from stray.cli.compare import compare, show
from stray.comparison import read_comparison
from stray.errors import InputError
from stray.evaluate import Evaluation, evaluate
from stray.report.tables import Comparison
from stray.report.text import patient_tables
from stray.track.mlflow import MlflowStore
from tests.support.experiments import evaluation, fast, features, log_cell, spots

SIGNAL = {"untrained": 0.05, "clip_scvi": 0.5}
FOLDS, SEEDS = ("A", "B", "C"), (0, 1)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str, int], Evaluation]:
    """Every cell. In C2 labels are transferred; only C has a class `immune`."""
    table = spots()
    label, source = table.label.copy(), table.label_source.copy()
    label[(table.patient != "C") & (label == "immune")] = None
    source[label == None] = None  # noqa: E711
    source[(table.section == "C2") & (source == "annotated")] = "transferred"
    table = replace(table, label=label, label_source=source)
    return {
        (method, fold, seed): evaluation(table, features(table, signal, seed), fold)
        for method, signal in SIGNAL.items()
        for fold in FOLDS
        for seed in SEEDS
    }


@pytest.fixture(scope="module")
def comparison(uri: str, results: dict[tuple[str, str, int], Evaluation]) -> Comparison:
    with MlflowStore(uri, "whole") as store:
        parent = store.run("experiment", tags={"stray.kind": "experiment"})
        parent.params({"dataset": "/data/cohort", "contrastive.epochs": 8})
        for (method, fold, seed), result in results.items():
            log_cell(store, parent, method, fold, seed, result)
        parent.close()
    return read_comparison(uri, "whole")


def test_means_and_spreads_are_those_of_the_cells(
    comparison: Comparison, results: dict[tuple[str, str, int], Evaluation]
) -> None:
    name = "eval/annotated/probe/balanced_accuracy"
    values = [results["clip_scvi", fold, seed].metrics[name] for fold in FOLDS for seed in SEEDS]
    row = comparison.row("clip_scvi")
    assert row.mean == pytest.approx(np.mean(values))
    assert row.sd == pytest.approx(np.std(values, ddof=1))
    assert (row.folds, row.seeds, row.missing) == (FOLDS, SEEDS, ())
    assert [one.method for one in comparison.sources[0].rows] == ["majority class", "untrained", "clip_scvi"]
    majority = [results["untrained", fold, 0].metrics["eval/annotated/majority/balanced_accuracy"] for fold in FOLDS]
    assert comparison.row("majority class").mean == pytest.approx(np.mean(majority))
    assert row.knn_mean == pytest.approx(
        np.mean(
            [
                result.metrics["eval/annotated/knn/balanced_accuracy"]
                for key, result in results.items()
                if "clip" in key[0]
            ]
        )
    )


def test_the_difference_is_paired_and_tested(comparison: Comparison) -> None:
    baseline, row = comparison.row("untrained"), comparison.row("clip_scvi")
    assert comparison.baseline == "untrained"
    assert baseline.delta is None
    assert row.delta is not None
    assert row.delta.mean == pytest.approx(row.mean - baseline.mean)
    assert (row.delta.n_pairs, row.delta.n_folds) == (6, 3)
    assert row.delta.p == pytest.approx(0.25)


def test_pooled_scores_are_over_the_predictions_of_all_folds(
    comparison: Comparison, results: dict[tuple[str, str, int], Evaluation]
) -> None:
    accuracy, f1 = [], []
    for seed in SEEDS:
        frames = [results["clip_scvi", fold, seed].table.to_pandas() for fold in FOLDS]
        own = [frame[frame.scored & (frame.label_source == "annotated")] for frame in frames]
        truth, guess = (np.concatenate([frame[column] for frame in own]) for column in ("label", "probe"))
        accuracy.append(accuracy_score(truth, guess))
        f1.append(f1_score(truth, guess, average="macro", labels=np.unique(truth)))
    row = comparison.row("clip_scvi")
    assert row.accuracy == pytest.approx(np.mean(accuracy))
    assert row.macro_f1 == pytest.approx(np.mean(f1))
    assert row.confusion_KK is not None
    assert row.confusion_KK.sum() == 2 * comparison.sources[0].support_K.sum()


def test_every_patient_and_all_together_have_three_scores(
    comparison: Comparison, results: dict[tuple[str, str, int], Evaluation]
) -> None:
    (_, balanced, f1), row = list(patient_tables(comparison.sources[0])), comparison.row("clip_scvi")
    assert balanced.head == ("method", "A", "B", "C", "pooled")
    recalls = []
    for seed in SEEDS:
        frames = [results["clip_scvi", fold, seed].table.to_pandas() for fold in FOLDS]
        own = [frame[frame.scored & (frame.label_source == "annotated")] for frame in frames]
        truth, guess = (np.concatenate([frame[column] for frame in own]) for column in ("label", "probe"))
        recalls.append(balanced_accuracy_score(truth, guess))
    assert row.balanced_accuracy == pytest.approx(np.mean(recalls))
    name = "eval/annotated/probe/macro_f1_fold"
    for column, fold in enumerate(FOLDS, start=1):
        expected = np.mean([results["clip_scvi", fold, seed].metrics[name] for seed in SEEDS])
        assert f1.rows[-1][column] == f"{expected:.3f}"
    assert f1.rows[-1][-1] == f"{row.macro_f1:.3f}"
    assert balanced.rows[-1][0] == "clip_scvi"


def test_what_was_chosen_and_by_which_scores_is_shown(
    uri: str, results: dict[tuple[str, str, int], Evaluation], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = {"A": "clip_scvi", "B": "untrained", "C": "clip_scvi"}
    with MlflowStore(uri, "chosen") as store:
        parent = store.run("experiment")
        for (method, fold, seed), result in results.items():
            if seed == 0:
                log_cell(store, parent, method, fold, seed, result)
        for fold, name in names.items():
            scores = {f"choice/{one}": 0.6 if one == name else 0.25 for one in SIGNAL}
            tags = {"stray.chosen": name, "stray.inner": "Y+Z"}
            log_cell(store, parent, "best", fold, 0, results[name, fold, 0], chosen=(tags, scores))
    comparison = read_comparison(uri, "chosen")
    assert comparison.row("best").cells == {
        (fold, 0): comparison.row(name).cells[fold, 0] for fold, name in names.items()
    }
    chosen = comparison.choices["best"]["B", 0]
    assert (chosen.method, chosen.judges) == ("untrained", "Y+Z")
    assert chosen.scores == {"clip_scvi": 0.25, "untrained": 0.6}
    page = tmp_path / "page.html"
    command = ["compare", "--uri", uri, "--experiment", "chosen", "--markdown", "--per-patient"]
    assert main([*command, "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "| held out | best is | chosen on | untrained | clip_scvi |\n| --- | ---: | ---: | ---: | ---: |" in shown
    assert "| B | untrained | Y+Z | 0.600 | 0.250 |" in shown
    assert "**Macro-F1 of every held-out patient, annotated labels**" in shown
    assert "What best was on each fold" in page.read_text()


def test_weak_labels_stand_apart_and_absent_classes_are_named(comparison: Comparison) -> None:
    trusted, weak = comparison.sources
    assert (trusted.source, trusted.weak) == ("annotated", False)
    assert (weak.source, weak.weak) == ("transferred", True)
    assert weak.folds == ("C",)
    assert trusted.missing_classes == {"C": ("immune",)}
    row = comparison.row("clip_scvi", "transferred")
    assert row.interval is not None
    assert row.interval[0] < row.mean < row.interval[1]
    assert row.auc_interval.keys() == row.auc.keys() == {"adipose", "connective", "invasive cancer"}
    assert comparison.notes == ()


def test_curves_and_the_recipe_are_found(comparison: Comparison) -> None:
    curves = comparison.curves["contrastive/loss"]
    assert len(curves) == 12
    assert [step for step, _ in curves["clip_scvi", ("A", 0)]] == list(range(1, 9))
    assert comparison.params["contrastive.epochs"] == "8"
    assert comparison.facts["Dataset digest"] == "d1"
    assert comparison.facts["Cells"] == "12"


def test_the_command_prints_the_table_and_writes_the_page(
    comparison: Comparison, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "deep" / "page.html"
    assert main(["compare", "--uri", uri, "--experiment", "whole", "--knn", "--out", str(page)]) == 0
    console = Console(width=140)
    with console.capture() as captured:
        show(comparison, console)
    shown = captured.get()
    assert "clip_scvi" in shown
    assert "fold C: no training patient has immune" in shown
    assert "weak labels" in shown
    assert f"{comparison.row('clip_scvi').mean:.3f} ±" in shown
    assert f"{comparison.row('clip_scvi').mean:.3f} ±" in page.read_text()


def test_a_missing_cell_and_one_that_failed_are_named(
    uri: str, results: dict[tuple[str, str, int], Evaluation]
) -> None:
    with MlflowStore(uri, "holes") as store:
        parent = store.run("experiment")
        for (method, fold, seed), result in results.items():
            if seed == 0 and (method, fold) != ("clip_scvi", "B"):
                log_cell(store, parent, method, fold, seed, result)
        failed = store.run("clip_scvi B 0", parent, {
            "stray.kind": "cell", "stray.method": "clip_scvi", "stray.fold": "B", "stray.seed": "0",
        })  # fmt: skip
        failed.close("FAILED")
    comparison = read_comparison(uri, "holes")
    row = comparison.row("clip_scvi")
    assert row.missing == (("B", 0),)
    assert row.delta is not None
    assert (row.delta.n_pairs, np.isnan(row.delta.p)) == (2, True)
    said = " ".join(comparison.notes)
    assert "clip_scvi has no finished cell for fold B seed 0" in said
    assert "clip_scvi B 0 is FAILED" in said


def test_the_newest_of_each_cell_on_the_newest_dataset_counts(
    uri: str, results: dict[tuple[str, str, int], Evaluation]
) -> None:
    old, new = results["untrained", "A", 0], results["clip_scvi", "A", 0]
    with MlflowStore(uri, "again") as store:
        for result, digest in ((new, "other"), (old, "d1"), (new, "d1")):
            log_cell(store, store.run("experiment"), "clip_scvi", "A", 0, result, digest)
            assert store.flush()
    comparison = read_comparison(uri, "again")
    assert comparison.row("clip_scvi").mean == new.metrics["eval/annotated/probe/balanced_accuracy"]
    assert comparison.baseline is None
    said = " ".join(comparison.notes)
    assert "1 finished cells on another dataset" in said
    assert "1 finished cells were run again" in said


def test_without_predictions_pooled_scores_are_left_out(
    uri: str, results: dict[tuple[str, str, int], Evaluation], tmp_path: Path
) -> None:
    tags = {"stray.kind": "cell", "stray.method": "clip_scvi", "stray.fold": "A", "stray.seed": "0"}
    with MlflowStore(uri, "bare") as store:
        run = store.run("cell", tags=tags)
        run.metrics(results["clip_scvi", "A", 0].metrics)
        run.close()
    comparison = compare(uri, "bare", tmp_path / "page.html")
    assert np.isnan(comparison.row("clip_scvi").accuracy)
    assert "predictions of clip_scvi (fold A seed 0) could not be read" in comparison.notes[0]
    assert (tmp_path / "page.html").exists()


def test_nothing_to_compare_is_said(
    comparison: Comparison, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with MlflowStore(uri, "empty") as store:
        store.run("cell", tags={"stray.kind": "cell", "stray.method": "m", "stray.fold": "A", "stray.seed": "0"})
    with pytest.raises(InputError, match=r"no cell has finished.*RUNNING"):
        read_comparison(uri, "empty")
    with pytest.raises(InputError, match="no method of it"):
        read_comparison(uri, "whole", baseline="absent")
    assert main(["compare", "--uri", f"sqlite:///{tmp_path}/absent.db"]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        compare(uri, "whole", tmp_path / "file" / "page.html")


def test_methods_of_different_spots_are_compared_on_the_common_ones(tmp_path: Path) -> None:
    table, uri = spots(), f"sqlite:///{tmp_path}/mlflow.db"
    half = np.flatnonzero(np.arange(len(table.spot_id)) % 2 == 0)
    deltas = []
    with MlflowStore(uri, "other spots") as store:
        parent = store.run("experiment", tags={"stray.kind": "experiment"})
        for fold in FOLDS:
            whole = evaluation(table, features(table, 0.5), fold)
            train = sorted(set(table.patient) - {fold})
            pictured = evaluate(
                features(table, 0.05)[half], half, table, train_patients=train, test_patients=[fold], config=fast()
            )
            log_cell(store, parent, "genes", fold, 0, whole)
            log_cell(store, parent, "untrained", fold, 0, pictured)
            common = whole.table.to_pandas().merge(pictured.table.to_pandas(), on="spot_id", suffixes=("", "_b"))
            own = common[common.scored & common.scored_b]
            deltas.append(
                balanced_accuracy_score(own.label, own.probe) - balanced_accuracy_score(own.label, own.probe_b)
            )
        parent.close()
    delta = read_comparison(uri, "other spots").row("genes").delta
    assert delta is not None
    assert delta.note == "on the spots that both scored"
    assert delta.mean == pytest.approx(np.mean(deltas))


def test_scores_on_patients_that_chose_the_settings_are_marked(tmp_path: Path) -> None:
    table, uri = spots(), f"sqlite:///{tmp_path}/mlflow.db"
    with MlflowStore(uri, "best") as store:
        parent = store.run("experiment", tags={"stray.kind": "experiment"})
        parent.params({"search.chosen_on": ["C", "Z"]})
        for fold in ("B", "C"):
            log_cell(store, parent, "found", fold, 0, evaluation(table, features(table, 0.5), fold))
        parent.close()
    (note,) = [note for note in read_comparison(uri, "best").notes if "search" in note]
    assert "by the scores on C:" in note
