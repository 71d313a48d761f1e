"""The synthetic cohort: repeatable, section by section, with every class, and with effects of the patient."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stray.cohort.readers import make_reader
from stray.cohort.readers.synthetic import SyntheticReader
from stray.cohort.scale import is_hexagonal, regressed_microns_per_pixel
from stray.cohort.section import Section, check_section
from stray.cohort.synthetic import CLASSES, LATENTS, PITCH_UM, draw_layout
from stray.cohort.synthetic.counts import draw_programmes, patient_log_effect
from stray.cohort.synthetic.fields import SmoothField, generator, spread_normals
from stray.cohort.synthetic.layout import ADIPOSE, CANCER, CONNECTIVE, GLANDS, IMMUNE
from stray.cohort.synthetic.nuclei import Nuclei, stamp_nuclei
from stray.config.ingest import SyntheticSourceConfig
from stray.errors import InputError

SEEDS = (0, 1, 2)


def cohort(**settings: float) -> SyntheticReader:
    return SyntheticReader(SyntheticSourceConfig(**settings))  # type: ignore[arg-type]


def picture(section: Section) -> np.ndarray:
    assert section.image is not None
    return np.asarray(section.image.load())


def dense(section: Section) -> np.ndarray:
    assert section.counts is not None
    return section.counts.toarray()


def names(section: Section) -> np.ndarray:
    assert section.labels is not None
    return section.labels.astype(str)


@pytest.fixture(scope="module", params=SEEDS, ids=lambda seed: f"seed {seed}")
def sections(request: pytest.FixtureRequest) -> list[Section]:
    reader = cohort(seed=request.param)
    return [reader.read(handle.name) for handle in reader.sections()]


@pytest.fixture(scope="module")
def patches() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches (N, 64, 64, 3) as float, class index and patient index of seed 0."""
    reader = cohort(seed=0)
    crops, classes, patients = [], [], []
    for handle in reader.sections():
        section = reader.read(handle.name)
        pixels = picture(section)
        for (x, y), label in zip(np.rint(section.xy_px).astype(int), names(section), strict=True):
            crops.append(pixels[y - 32 : y + 32, x - 32 : x + 32])
            classes.append(CLASSES.index(label))
            patients.append(int(handle.patient[1:]))
    return np.stack(crops).astype(float), np.array(classes), np.array(patients)


def test_the_reader_is_what_make_reader_gives() -> None:
    reader = make_reader(SyntheticSourceConfig(patients=3, sections_per_patient=2))
    handles = reader.sections()
    assert [(handle.name, handle.patient) for handle in handles] == [
        (f"P{patient}S{section}", f"P{patient}") for patient in (1, 2, 3) for section in (1, 2)
    ]
    section = reader.read("P2S1")
    check_section(section, "synthetic")
    assert section.genes == reader.genes("P2S1")


@pytest.mark.parametrize("name", ["P7S1", "P1S3", "P0S1", "A1", "P1S1 "])
def test_a_section_that_is_not_in_the_cohort_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="P1S1 to P6S2"):
        cohort().read(name)


def test_one_seed_gives_one_cohort_and_another_seed_another() -> None:
    once, again, other = (cohort(seed=seed).read("P4S2") for seed in (3, 3, 4))
    assert (picture(once) == picture(again)).all()
    assert (dense(once) == dense(again)).all()
    assert (names(once) == names(again)).all()
    assert not np.array_equal(dense(once), dense(other))
    assert not np.array_equal(picture(once), picture(other))


def test_a_section_is_the_same_read_alone_in_any_order_or_in_a_larger_cohort() -> None:
    reader = cohort(seed=1, spots_per_section=40)
    in_order = [reader.read(handle.name) for handle in reader.sections()][-1]
    alone = cohort(seed=1, spots_per_section=40).read("P6S2")
    larger = pickle.loads(pickle.dumps(cohort(seed=1, spots_per_section=40, patients=9, sections_per_patient=3)))
    for other in (alone, larger.read("P6S2")):
        assert (dense(other) == dense(in_order)).all()
        assert (picture(other) == picture(in_order)).all()
        assert (other.xy_px == in_order.xy_px).all()
    # What an ingest compares to tell whether a section changed says the same.
    assert larger.sections()[0].options == reader.sections()[0].options
    assert cohort(seed=2).sections()[0].options != cohort(seed=1).sections()[0].options


@pytest.mark.parametrize("n_spots", [16, 300])
def test_the_number_of_spots_is_exact_and_all_patches_lie_in_the_picture(n_spots: int) -> None:
    section = cohort(spots_per_section=n_spots, genes=60).read("P1S1")
    assert len(section.spots) == len(set(section.spots)) == n_spots
    assert dense(section).shape == (n_spots, 60)
    height, width, _ = picture(section).shape
    half = 112.0 / 2 / section.microns_per_pixel
    assert (section.xy_px - half >= 0).all()
    assert (section.xy_px + half <= (width, height)).all()
    assert set(names(section)) == set(CLASSES)


def test_spots_lie_on_a_visium_like_array() -> None:
    section = cohort(microns_per_pixel=2.5).read("P3S1")
    assert section.array_row is not None
    assert section.array_col is not None
    assert is_hexagonal(section.array_row, section.array_col, section.xy_px)
    scale = regressed_microns_per_pixel(section.xy_px, section.array_row, section.array_col, PITCH_UM)
    assert scale == pytest.approx(2.5)


def test_the_resolution_changes_the_pixels_not_the_tissue() -> None:
    coarse, fine = (cohort(microns_per_pixel=size).read("P2S1") for size in (3.5, 1.75))
    assert (names(coarse) == names(fine)).all()
    assert (dense(coarse) == dense(fine)).all()
    small = np.asarray(picture(coarse), dtype=float)
    large = picture(fine)[: 2 * len(small), : 2 * small.shape[1]].astype(float)
    halved = large[: len(large) // 2 * 2, : large.shape[1] // 2 * 2]
    halved = halved.reshape(len(halved) // 2, 2, halved.shape[1] // 2, 2, 3).mean((1, 3))
    small = small[: len(halved), : halved.shape[1]]
    # Single nuclei lie elsewhere, regions do not: compared at 30 pixels a block.
    block = [
        image[: len(image) // 30 * 30, : image.shape[1] // 30 * 30]
        .reshape(len(image) // 30, 30, image.shape[1] // 30, 30, 3)
        .mean((1, 3))
        for image in (small, halved)
    ]
    assert np.corrcoef(block[0].ravel(), block[1].ravel())[0, 1] > 0.95


def test_every_patient_has_every_class_and_they_are_unbalanced(sections: list[Section]) -> None:
    labels = np.concatenate([names(section) for section in sections])
    patients = np.concatenate([[section.patient] * len(section.spots) for section in sections])
    table = np.array([[(labels[patients == p] == c).sum() for c in CLASSES] for p in np.unique(patients)])
    assert table.min() >= 8
    total = table.sum(axis=0)
    assert total.max() > 1.8 * total.min()


def test_a_classifier_of_raw_counts_works_within_patients_and_loses_much_across_them(sections: list[Section]) -> None:
    logs = np.log1p(np.concatenate([dense(section) for section in sections]))
    labels = np.concatenate([names(section) for section in sections])
    patients = np.concatenate([[section.patient] * len(section.spots) for section in sections])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    within, across = [], []
    for patient in np.unique(patients):
        own = patients == patient
        guess = cross_val_predict(model, logs[own], labels[own], cv=StratifiedKFold(3, shuffle=True, random_state=0))
        within.append(balanced_accuracy_score(labels[own], guess))
        guess = model.fit(logs[~own], labels[~own]).predict(logs[own])
        across.append(balanced_accuracy_score(labels[own], guess))
    # Across patients it learns from five times as many spots, and would win without the patients' effects.
    assert np.mean(within) > 0.80
    assert np.mean(across) < np.mean(within) - 0.12


def test_patient_effects_are_large_beside_the_class_programmes() -> None:
    programmes = draw_programmes(0, 600)
    effects = np.stack([patient_log_effect(0, patient, programmes) for patient in range(6)])
    assert effects.std(axis=0).mean() > 0.8
    assert (np.abs(programmes.classes_KG) > 0).any(axis=1).all()


def test_counts_are_overdispersed_and_depth_differs_between_patients() -> None:
    reader = cohort(spots_per_section=400, genes=200)
    totals = {name: dense(reader.read(name)).sum(axis=1).mean() for name in ("P1S1", "P2S1", "P3S1", "P4S1")}
    assert max(totals.values()) > 1.5 * min(totals.values())
    section = reader.read("P1S1")
    counts = dense(section)[names(section) == CLASSES[CONNECTIVE]]
    mean, variance = counts.mean(axis=0), counts.var(axis=0)
    assert np.median((variance / mean)[mean > 5]) > 1.5  # 1 for Poisson


def test_a_latent_moves_its_genes_within_a_class() -> None:
    layout = draw_layout(0, 0, 0, 400)
    counts = dense(cohort(spots_per_section=400).read("P1S1"))
    chosen = (layout.composition[:, CONNECTIVE] == 1) | (layout.composition[:, CANCER] == 1)
    programmes = draw_programmes(0, 600)
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)[chosen]
    for latent in range(len(LATENTS)):
        moved = np.abs(programmes.latents_LG[latent]) > 0.4
        score = logs[:, moved] @ programmes.latents_LG[latent, moved]
        assert np.corrcoef(score, layout.latents[chosen, latent])[0, 1] > 0.5


def test_classes_differ_in_the_picture_as_their_names_say(
    patches: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    pixels, classes, patients = patches
    red = pixels[..., 0]
    bright = (pixels.min(axis=-1) > 195).mean(axis=(1, 2))
    dark = (red < 130).mean(axis=(1, 2))
    for patient in np.unique(patients):
        own = patients == patient
        white = np.array([bright[own & (classes == k)].mean() for k in range(5)])
        nuclear = np.array([dark[own & (classes == k)].mean() for k in range(5)])
        assert white.argmax() == ADIPOSE
        assert nuclear[IMMUNE] > nuclear[CONNECTIVE]
        assert nuclear[CANCER] > nuclear[ADIPOSE]
        assert nuclear[GLANDS] > nuclear[ADIPOSE]


def test_the_stain_differs_more_between_patients_than_between_sections_of_one() -> None:
    reader = cohort(seed=0)
    means = np.array([[picture(reader.read(f"P{p}S{s}")).reshape(-1, 3).mean(0) for s in (1, 2)] for p in range(1, 5)])
    between = means.mean(axis=1).std(axis=0).mean()
    inside = (means[:, 0] - means[:, 1]).std(axis=0).mean() / np.sqrt(2)
    assert between > 1.5 * inside


def test_the_cellularity_latent_shows_as_nuclei_within_a_class() -> None:
    reader = cohort(spots_per_section=400)
    layout = draw_layout(0, 3, 0, 400)
    section = reader.read("P4S1")
    pixels = picture(section)
    dark = np.array(
        [(pixels[y - 24 : y + 24, x - 24 : x + 24, 0] < 130).mean() for x, y in np.rint(section.xy_px).astype(int)]
    )
    chosen = layout.composition[:, CANCER] == 1
    assert np.corrcoef(dark[chosen], layout.latents[chosen, 0])[0, 1] > 0.3


def test_a_smooth_field_is_the_same_on_points_and_grid_with_the_stated_correlation() -> None:
    rng = generator(0, "test")
    field = SmoothField.draw(rng, 50.0)
    x, y = np.arange(0.0, 90.0, 10.0), np.arange(0.0, 60.0, 10.0)
    points = np.stack(np.meshgrid(x, y), axis=-1)
    np.testing.assert_allclose(field.on_grid(x, y), field.at(points), atol=1e-4)
    at = np.array([SmoothField.draw(rng, 50.0).at(np.array([[0.0, 0.0], [50.0, 0.0]])) for _ in range(4000)])
    assert at.std() == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(at.T)[0, 1] == pytest.approx(np.exp(-0.5), abs=0.05)


def test_patients_are_spread_over_the_range_of_an_effect() -> None:
    for seed in range(20):
        for first in (0, 6):
            values = np.array([spread_normals(seed, "stain", first + patient, 9) for patient in range(6)])
            sixths = np.floor(ndtr(values) * 6)
            assert (np.sort(sixths, axis=0) == np.arange(6)[:, None]).all()
        assert len({tuple(row) for row in values.argsort(axis=0).T}) > 4  # each number orders the patients anew


def test_a_stamped_nucleus_has_its_area_and_lies_where_it_was_put() -> None:
    one = np.ones(1)
    nucleus = Nuclei(xy=np.array([[31.3, 20.8]]), radius=np.array([[8.0, 4.0]]), angle=one, stain=one, grain=0 * one)
    for size in (0.5, 1.0, 2.0):
        _, cover = stamp_nuclei(nucleus, (int(60 / size), int(60 / size)), size, generator(0, "test"))
        assert cover.sum() * size**2 == pytest.approx(np.pi * 8 * 4, rel=0.12)
        row, column = np.indices(cover.shape)
        center = [((axis + 0.5) * size * cover).sum() / cover.sum() for axis in (column, row)]
        assert center == pytest.approx([31.3, 20.8], abs=0.15)


def test_nuclei_at_the_border_are_cut_not_wrapped() -> None:
    one = np.ones(1)
    nucleus = Nuclei(xy=np.array([[0.0, 10.0]]), radius=np.array([[4.0, 4.0]]), angle=one, stain=one, grain=0 * one)
    _, cover = stamp_nuclei(nucleus, (20, 20), 1.0, generator(0, "test"))
    assert cover.sum() == pytest.approx(np.pi * 16 / 2, rel=0.12)
    assert cover[:, 10:].sum() == 0


def test_the_fast_sum_of_the_regions_decides_as_the_slow_one() -> None:
    layout = draw_layout(1, 2, 0, 400)
    offsets = np.random.default_rng(0).uniform(-30, 30, (20, 2))
    slow = layout.regions.scores_at(layout.xy_um[:, None, :] + offsets) + layout.regions.biases
    np.testing.assert_array_equal(layout.regions.winners(layout.xy_um, offsets), slow.argmax(axis=-1))
    # Two classes of one field draw everywhere: only the slow sum knows that it is a draw, which the first wins.
    fields = layout.regions.fields
    twins = replace(layout.regions, fields=(*fields[:3], fields[2], fields[4]), biases=np.array([0, 0, 1.0, 1.0, 0]))
    twins = replace(twins, roughness=(*twins.roughness[:3], twins.roughness[2], twins.roughness[4]))
    assert CONNECTIVE == 2
    found = twins.winners(layout.xy_um, offsets)
    assert (found == 2).any()
    assert not (found == 3).any()


def test_sections_without_pictures_are_the_same_but_for_the_pictures() -> None:
    with_picture, without = (cohort(spots_per_section=40, genes=60, images=images) for images in (True, False))
    first, second = with_picture.read("P2S1"), without.read("P2S1")
    assert first.image is not None
    assert second.image is None
    np.testing.assert_array_equal(dense(first), dense(second))
    # Those that were drawn before there was a choice are found again.
    assert "images" not in with_picture.sections()[0].options
    assert without.sections()[0].options["images"] is False
