from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from stray.metrics.knn import knn_predict, majority_code
from stray.metrics.probe import Probe, fit

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def tissue(n: int = 240, size: int = 16, classes: int = 3, signal: float = 1.0, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    code = rng.integers(0, classes, n)
    features = rng.normal(size=(n, size)) * rng.uniform(0.1, 10, size) + signal * rng.normal(size=(classes, size))[code]
    return {
        "features_ND": features,
        "label_N": np.array(["stroma", "tumour", "fat", "gland", "immune"], dtype=object)[code],
        "patient_N": np.array(list("ABCD"))[np.arange(n) % 4],
        "block_N": np.arange(n) // 12,
    }


@pytest.mark.parametrize("classes", [2, 3], ids=["two classes", "three classes"])
@pytest.mark.parametrize("n", [20, 240], ids=["fewer spots than features", "more spots than features"])
def test_the_probe_is_scikit_learns_on_standardised_features(n: int, classes: int) -> None:
    data = tissue(n, size=40, classes=classes)
    probe = fit(**data, strengths=(0.01,), seed=0)
    scaler = StandardScaler().fit(data["features_ND"])
    model = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-10, max_iter=10_000)
    model.fit(scaler.transform(data["features_ND"]), data["label_N"].astype(str))
    fresh = tissue(100, size=40, classes=classes, seed=1)["features_ND"]
    expected = model.predict_proba(scaler.transform(fresh))
    assert probe.classes == tuple(model.classes_)
    assert np.abs(probe.probabilities(fresh) - expected).max() < 2e-3
    assert np.array_equal(probe.predict(fresh).astype(str), np.array(probe.classes)[expected.argmax(1)])


def test_noise_across_patients_gets_strong_regularisation_and_signal_scores_well() -> None:
    noise = fit(**tissue(signal=0.0), strengths=STRENGTHS, seed=0)
    clear = fit(**tissue(signal=3.0), strengths=STRENGTHS, seed=0)
    assert noise.inner_score < 0.5 < 0.9 < clear.inner_score
    assert clear.c in STRENGTHS


def test_of_equal_scores_the_strongest_regularisation_wins() -> None:
    data = tissue(signal=60.0)
    assert fit(**data, strengths=(1.0, 1e-2), seed=0).c == 1e-2


def test_one_patient_is_split_by_blocks_of_tissue() -> None:
    data = tissue(signal=2.0) | {"patient_N": np.full(240, "A")}
    probe = fit(**data, strengths=STRENGTHS, seed=0)
    assert np.isfinite(probe.inner_score)
    again = fit(**data, strengths=STRENGTHS, seed=0)
    assert np.array_equal(probe.weight_KD, again.weight_KD)
    # Spots of a block are copies: were blocks torn apart, even noise would be recognised.
    torn = {name: np.repeat(values[:20], 12, axis=0) for name, values in tissue(signal=0.0).items()}
    torn |= {"patient_N": np.full(240, "A"), "block_N": np.repeat(np.arange(20), 12)}
    assert fit(**torn, strengths=STRENGTHS, seed=0).inner_score < 0.75


def test_where_nothing_can_be_left_out_the_middle_strength_is_taken() -> None:
    data = tissue() | {"patient_N": np.full(240, "A"), "block_N": np.zeros(240, dtype=int)}
    probe = fit(**data, strengths=STRENGTHS, seed=0)
    assert probe.c == 1e-2
    assert np.isnan(probe.inner_score)


def test_one_class_and_constant_features_are_no_trouble() -> None:
    data = tissue()
    only = fit(**(data | {"label_N": np.full(240, "fat", dtype=object)}), strengths=STRENGTHS, seed=0)
    assert set(only.predict(data["features_ND"])) == {"fat"}
    data["features_ND"][:, 3] = 7.0
    assert np.isfinite(fit(**data, strengths=STRENGTHS, seed=0).probabilities(data["features_ND"])).all()


def test_a_probe_survives_storage_bit_by_bit() -> None:
    data = tissue()
    probe = fit(**data, strengths=STRENGTHS, seed=0)
    again = Probe.from_bytes(probe.to_bytes())
    assert again.classes == probe.classes
    assert again.c == probe.c
    assert np.array_equal(again.probabilities(data["features_ND"]), probe.probabilities(data["features_ND"]))


def test_a_thousand_spots_of_512_features_take_seconds() -> None:
    data = tissue(1000, size=512, classes=5, signal=0.3)
    start = time.process_time()
    assert fit(**data, strengths=STRENGTHS, seed=0).converged
    assert time.process_time() - start < 20  # 0.5 s on a quiet core


def test_neighbours_vote_by_cosine_and_ties_go_to_the_nearer() -> None:
    train = np.array([[1.0, 0.0], [10.0, 0.5], [0.0, 1.0], [0.0, 3.0]])
    codes = np.array([0, 0, 1, 1])
    assert knn_predict(train, codes, np.array([[100.0, 1.0], [0.1, 1.0]]), 3).tolist() == [0, 1]
    assert knn_predict(train, codes, np.array([[2.0, 1.0], [1.0, 2.0]]), 4).tolist() == [0, 1]
    assert knn_predict(train, codes, np.array([[1.0, 9.0]]), 99).tolist() == [1]


def test_neighbours_in_chunks_equal_a_plain_vote() -> None:
    data = tissue(300, signal=0.5)
    codes = np.unique(data["label_N"].astype(str), return_inverse=True)[1]
    test = np.random.default_rng(5).normal(size=(2500, 16))
    found = knn_predict(data["features_ND"], codes, test, 5)
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (data["features_ND"], test)]
    for row in (0, 2047, 2048, 2499):
        votes = np.bincount(codes[np.argsort(-(units[0] @ units[1][row]))[:5]], minlength=3)
        assert votes[found[row]] == votes.max()


def test_majority_is_the_commonest_and_needs_a_spot() -> None:
    assert majority_code(np.array([2, 1, 2]), 3) == 2
    with pytest.raises(ValueError, match="at least one"):
        majority_code(np.array([], dtype=int), 3)
    with pytest.raises(ValueError, match="at least one"):
        knn_predict(np.zeros((0, 2)), np.array([], dtype=int), np.zeros((1, 2)), 3)
