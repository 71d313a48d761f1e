from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stray.errors import InputError
from stray.evaluate import FACTS, Evaluation, evaluate, fit_probe, probe_balanced_accuracy
from stray.metrics.labels import training_labels
from tests.support.experiments import CLASSES, Table, evaluation, fast, features, spots


def relabelled(table: Table, patient: str, source: str, sections: tuple[str, ...] = ("1", "2")) -> Table:
    """The labels of a patient's sections come from `source`."""
    names = tuple(patient + section for section in sections)
    sources = table.label_source.copy()
    sources[np.isin(table.section, names) & (sources != None)] = source  # noqa: E711
    return replace(table, label_source=sources)


def same_probe(one: Evaluation, other: Evaluation) -> bool:
    arrays = ("mean_D", "scale_D", "weight_KD", "bias_K")
    return one.probe.c == other.probe.c and all(
        np.array_equal(getattr(one.probe, name), getattr(other.probe, name)) for name in arrays
    )


def test_embeddings_that_know_the_class_are_told_from_those_that_do_not() -> None:
    table = spots()
    clear, blind = (evaluation(table, features(table, signal), "C").metrics for signal in (0.6, 0.0))
    for classifier in ("probe", "knn"):
        score = f"eval/annotated/{classifier}/balanced_accuracy"
        assert clear[score] > 0.7
        assert 0.1 < blind[score] < 0.4
    assert clear["eval/annotated/majority/balanced_accuracy"] == 0.25
    low, high = (clear[f"eval/annotated/probe/balanced_accuracy_{end}"] for end in ("low", "high"))
    assert low < clear["eval/annotated/probe/balanced_accuracy"] < high
    assert clear["eval/annotated/probe/auc/immune"] > 0.85
    assert clear["eval/annotated/n_spots"] == sum(
        name is not None and patient == "C" for name, patient in zip(table.label, table.patient, strict=True)
    )


def test_nothing_fitted_sees_the_held_out_patient() -> None:
    table, rng = spots(), np.random.default_rng(0)
    embedding = features(table, 0.4)
    before = evaluation(table, embedding, "C")
    held = np.flatnonzero(table.patient == "C")
    other_labels = table.label.copy()
    other_labels[held] = rng.permutation(other_labels[held])
    sources = np.array([None if name is None else "annotated" for name in other_labels], dtype=object)
    other_features = embedding.copy()
    other_features[held] = 100 * rng.permutation(other_features[held])
    after = evaluation(replace(table, label=other_labels, label_source=sources), other_features, "C")
    assert same_probe(before, after)
    assert before.table["majority"].equals(after.table["majority"])
    assert before.metrics != after.metrics
    # The same permutation among training patients does change it: the test would notice a leak.
    trained = np.flatnonzero(table.patient == "A")
    other_features = embedding.copy()
    other_features[trained] = rng.permutation(other_features[trained])
    assert not same_probe(before, evaluation(table, other_features, "C"))


def test_labels_of_other_sources_and_excluded_classes_neither_train_nor_score() -> None:
    table = relabelled(spots(), "B", "guessed")
    config = fast(exclude_classes=("immune",))
    trains = training_labels(np.arange(len(table.label)), table, ["A", "B"], config)
    assert set(table.patient[trains]) == {"A"}
    assert set(table.label[trains]) == set(CLASSES) - {"immune"}
    result = evaluation(table, features(table, 0.5), "C", config)
    assert "immune" not in result.probe.classes
    scored = result.table.filter(result.table["scored"])
    assert "immune" not in scored["label"].to_pylist()
    assert "immune" in result.table["label"].to_pylist()


def test_a_patient_with_trusted_labels_trains_on_those_alone() -> None:
    table = relabelled(relabelled(spots(), "A", "transferred", ("2",)), "B", "transferred")
    rows = np.arange(len(table.label))
    trains = training_labels(rows, table, ["A", "B"], fast())
    assert set(table.section[trains]) == {"A1", "B1", "B2"}
    # What counts is what was embedded: without the pictures of A1, A has weak labels only.
    rows = np.flatnonzero(table.section != "A1")
    assert set(table.section[rows][training_labels(rows, table, ["A", "B"], fast())]) == {"A2", "B1", "B2"}


def test_sources_are_scored_apart_and_untrusted_ones_are_marked() -> None:
    table = relabelled(spots(), "C", "transferred", ("2",))
    result = evaluation(table, features(table, 0.5), "C")
    assert result.weak == ("transferred",)
    assert result.metrics["eval/transferred/weak"] == 1.0
    assert result.metrics["eval/annotated/weak"] == 0.0
    frame = result.table.to_pandas()
    for source, section in (("annotated", "C1"), ("transferred", "C2")):
        own = frame[frame.scored & (frame.section == section)]
        assert result.metrics[f"eval/{source}/n_spots"] == len(own)
        assert result.metrics[f"eval/{source}/probe/accuracy"] == pytest.approx((own.label == own.probe).mean())
    assert set(frame[frame.weak].section) == {"C2"}


def test_classes_that_training_lacks_are_named_and_score_zero() -> None:
    table = spots()
    gone = (table.label == "immune") & (table.patient != "C")
    label, source = table.label.copy(), table.label_source.copy()
    label[gone] = source[gone] = None
    result = evaluation(replace(table, label=label, label_source=source), features(table, 0.6), "C")
    assert result.missing == {"annotated": ("immune",)}
    assert result.metrics["eval/annotated/classes_missing_in_training"] == 1.0
    assert result.metrics["eval/annotated/probe/recall/immune"] == 0.0
    assert result.metrics["eval/annotated/probe/balanced_accuracy"] == pytest.approx(
        0.75 * result.metrics["eval/annotated/probe/balanced_accuracy_known"]
    )
    assert "probability/immune" not in result.table.column_names


def test_predictions_travel_with_what_explains_them(tmp_path: Path) -> None:
    table = spots()
    embedding = features(table, 0.5)
    result = evaluation(table, embedding, "B")
    read = pq.read_table(result.write(tmp_path / "predictions.parquet"))
    assert read.equals(result.table)
    assert read.schema.metadata[FACTS] == result.table.schema.metadata[FACTS]
    assert result.facts["known_classes"] == list(CLASSES)
    probabilities = np.stack([read[f"probability/{name}"].to_numpy() for name in CLASSES], axis=1)
    assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    held = np.flatnonzero(table.patient == "B")
    assert read["spot_id"].to_pylist() == list(table.spot_id[held])
    assert read["probe"].to_pylist() == list(result.probe.predict(embedding[held]))


def test_rows_may_be_any_part_of_the_dataset_in_any_order() -> None:
    table = spots()
    embedding = features(table, 0.5)
    rows = np.random.default_rng(0).permutation(len(embedding))[: len(embedding) * 2 // 3]
    result = evaluate(embedding[rows], rows, table, train_patients=["A", "B"], test_patients=["C"], config=fast())
    tested = rows[table.patient[rows] == "C"]
    assert result.table["spot_id"].to_pylist() == list(table.spot_id[tested])
    assert result.table["label"].to_pylist() == list(table.label[tested])
    assert result.metrics["eval/annotated/probe/balanced_accuracy"] > 0.5


def test_two_evaluations_with_one_seed_are_equal() -> None:
    table = spots()
    embedding = features(table, 0.4)
    first, second = evaluation(table, embedding, "A"), evaluation(table, embedding, "A")
    assert first.metrics == second.metrics
    assert first.table.equals(second.table)


def test_what_cannot_be_evaluated_is_said_all_at_once() -> None:
    table = relabelled(spots(), "C", "guessed")
    unlabelled = replace(table, label=np.full(len(table.label), None))
    with pytest.raises(InputError) as caught:
        evaluation(unlabelled, features(table, 0.5), "C")
    assert [problem.place for problem in caught.value.problems] == [
        "eval.label_sources.train",
        "eval.label_sources.score",
    ]
    with pytest.raises(InputError, match="test patients C"):
        evaluation(table, features(table, 0.5), "C")
    with pytest.raises(InputError, match="training patients C"):
        fit_probe(features(table, 0.5), np.arange(len(table.label)), table, ["C"], fast())


def test_programming_errors_are_refused() -> None:
    table = spots()
    embedding, rows = features(table, 0.5), np.arange(len(table.label))
    with pytest.raises(ValueError, match="both trained on and tested on"):
        evaluate(embedding, rows, table, train_patients=["A", "B"], test_patients=["B"], config=fast())
    with pytest.raises(ValueError, match="do not fit"):
        evaluate(embedding[1:], rows, table, train_patients=["A"], test_patients=["B"], config=fast())
    embedding[5, 2] = np.nan
    with pytest.raises(ValueError, match="diverged"):
        evaluate(embedding, rows, table, train_patients=["A"], test_patients=["B"], config=fast())


def test_the_search_objective_sees_validation_patients_only() -> None:
    table = spots(("A", "B", "C", "D"))
    embedding, rows = features(table, 0.5), np.arange(len(table.label))
    value = probe_balanced_accuracy(embedding, rows, table, ["A", "B"], ["C"], fast())
    assert value > 0.5
    spoiled = embedding.copy()
    spoiled[table.patient == "D"] = 0.0
    assert probe_balanced_accuracy(spoiled, rows, table, ["A", "B"], ["C"], fast()) == value
    label = table.label.copy()
    label[table.patient == "C"] = None
    nobody = replace(table, label=label)
    assert np.isnan(probe_balanced_accuracy(embedding, rows, nobody, ["A", "B"], ["C"], fast()))


def test_the_headline_gives_each_label_source_by_itself_and_marks_weak_ones() -> None:
    table = relabelled(spots(), "C", "transferred", ("2",))
    result = evaluation(table, features(table, 0.5), "C")
    scores = {s: result.metrics[f"eval/{s}/probe/balanced_accuracy"] for s in ("annotated", "transferred")}
    expected = f"{scores['annotated']:.3f} on annotated, {scores['transferred']:.3f} on transferred (weak labels)"
    assert result.headline == f"balanced accuracy {expected}"
