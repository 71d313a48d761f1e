from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stray.cohort import write
from stray.cohort.build import build_dataset, run_here
from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import read_counts
from stray.cohort.manifest import Manifest
from stray.cohort.sources import SectionTask
from stray.cohort.write import SectionOutcome
from stray.config.ingest import IngestConfig, LabelTableConfig, PatchConfig, SyntheticSourceConfig
from stray.errors import InputError
from tests.support.tiny import config_of, make_h5ad, picture_path, write_counts, write_her2st


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "her2st"
    write_her2st(folder, "A1", image=True, seed=1)
    write_her2st(folder, "A2", seed=2)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "dataset")


def build(config: IngestConfig, out: str) -> tuple[Manifest, dict[str, str]]:
    """The manifest, and what became of each section."""
    events: list[dict] = []
    manifest = build_dataset(config, out, on_event=events.append)
    return manifest, {event["section"]: event["state"] for event in events if event["event"] == "section"}


def test_events_tell_of_the_plan_every_section_and_the_end(source: Path, out: str) -> None:
    events: list[dict] = []
    build_dataset(config_of(source), out, on_event=events.append)
    assert [event["event"] for event in events] == ["plan", "section", "section", "done"]
    assert [(event["section"], event["done"], event["total"]) for event in events[1:3]] == [("A1", 1, 2), ("A2", 2, 2)]


def test_the_same_inputs_give_the_same_dataset(source: Path, out: str) -> None:
    first, _ = build(config_of(source), out)
    second, _ = build(config_of(source), f"{out}-2")
    assert first.digest == second.digest


def test_a_second_run_keeps_what_stands(source: Path, out: str) -> None:
    first, _ = build(config_of(source), out)
    second, states = build(config_of(source), out)
    assert states == {"A1": "kept", "A2": "kept"}
    assert first == second


def test_what_changed_is_written_anew(source: Path, out: str) -> None:
    first, _ = build(config_of(source), out)
    write_counts(source, "A2", write_her2st(source.parent / "other", "A2", seed=9))
    second, states = build(config_of(source), out)
    assert states == {"A1": "kept", "A2": "written"}
    assert second.digest != first.digest
    _, states = build(config_of(source, patch=PatchConfig(size_um=160.0, size_px=8)), out)
    assert states == {"A1": "written", "A2": "written"}
    PairedDataset.open(out).verify()


def test_a_damaged_file_is_written_anew(source: Path, out: str) -> None:
    first, _ = build(config_of(source), out)
    shard = Path(out, "spots/A/A2/part-00000.parquet")
    shard.write_bytes(bytes(len(shard.read_bytes())))
    second, states = build(config_of(source), out)
    assert states == {"A1": "kept", "A2": "written"}
    assert second == first
    PairedDataset.open(out).verify()


def test_a_section_that_left_the_cohort_leaves_the_folder(source: Path, out: str) -> None:
    build(config_of(source), out)
    for path in source.glob("data/*/A2*"):
        path.unlink()
    manifest, states = build(config_of(source), out)
    assert states == {"A1": "kept"}
    assert manifest.n_spots == 25
    assert [path.parent.name for path in Path(out, "spots").rglob("*.parquet")] == ["A1"]


def test_a_new_gene_moves_the_indices_of_all_sections(source: Path, out: str) -> None:
    build(config_of(source), out)
    write_her2st(source, "A3", genes=("AAA", "ACTB"))
    _, states = build(config_of(source), out)
    assert states == {"A1": "written", "A2": "written", "A3": "written"}


def test_a_killed_ingest_reads_as_no_dataset_and_goes_on(source: Path, out: str) -> None:
    build(config_of(source), out)
    changed = config_of(source, patch=PatchConfig(size_um=160.0, size_px=8))

    def killed(tasks: Sequence[SectionTask], out: str) -> Iterator[SectionOutcome]:
        yield next(iter(run_here(tasks, out)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(changed, out, run_tasks=killed)
    with pytest.raises(InputError, match="there is no manifest"):
        PairedDataset.open(out)
    _, states = build(changed, out)
    assert states == {"A1": "kept", "A2": "written"}


def truncate_picture(source: Path) -> None:
    path = picture_path(source, "A1")
    path.write_bytes(path.read_bytes()[:2000])


def blank_picture(source: Path) -> None:
    Image.new("RGB", (240, 260), (250, 250, 251)).save(picture_path(source, "A1"))


def negative_counts(source: Path) -> None:
    write_counts(source, "A2", write_her2st(source.parent / "other", "A2") - 3)


def duplicated_spots(source: Path) -> None:
    counts = write_her2st(source.parent / "other", "A2")
    write_counts(source, "A2", counts.iloc[[0, 0, 1]])


def spots_off_the_picture(source: Path) -> None:
    path = source / "data/ST-spotfiles/A1_selection.tsv"
    spots = pd.read_csv(path, sep="\t")
    spots.assign(pixel_y=spots["pixel_y"] + 9000).to_csv(path, sep="\t", index=False)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda source: picture_path(source, "A1").unlink(), "should hold exactly one picture"),
        (truncate_picture, r"HE\.jpg: the picture cannot be decoded"),
        (blank_picture, r"HE\.jpg: the picture is white"),
        (negative_counts, "negative count"),
        (duplicated_spots, "more than once: 1x1"),
        (spots_off_the_picture, r"25 of 25 spots of section A1 lie outside the picture: x from 40 to 200"),
    ],
    ids=[
        "missing picture",
        "truncated picture",
        "blank picture",
        "negative counts",
        "duplicated spots",
        "spots outside the picture",
    ],
)
def test_a_faulty_section_leaves_nothing_that_reads_as_whole(
    source: Path, out: str, spoil: Callable[[Path], object], complaint: str
) -> None:
    spoil(source)
    with pytest.raises(InputError, match=complaint):
        build_dataset(config_of(source), out)
    assert not Path(out, "manifest.json").exists()
    assert not list(Path(out).rglob("*.partial"))


def test_the_problems_of_all_sections_are_told_at_once(source: Path, out: str) -> None:
    truncate_picture(source)
    negative_counts(source)
    with pytest.raises(InputError) as caught:
        build_dataset(config_of(source), out)
    assert [Path(problem.place).name for problem in caught.value.problems] == ["HE.jpg", "A2.tsv.gz"]


def test_a_label_table_that_joins_no_spot_is_refused(source: Path, out: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("section,spot,label\nA2,1-1,fat\nA2,1-2,fat\n")
    labels = (LabelTableConfig(name="weak", path=str(tmp_path / "labels.csv")),)
    with pytest.raises(InputError, match="none of its 2 rows for section A2 names a spot of it: the table has 1-1"):
        build_dataset(config_of(source, labels=labels), out)
    assert not Path(out, "manifest.json").exists()


def test_swapped_coordinates_are_recognised(tmp_path: Path, out: str) -> None:
    data = make_h5ad()
    data.uns["spatial"]["A1"]["images"]["hires"] = data.uns["spatial"]["A1"]["images"]["hires"][:30]
    data.obsm["spatial"][:, 0] *= 0.2  # x stays below 40, y goes to 200: on a wide picture they are swapped
    data.write_h5ad(tmp_path / "A1.h5ad")
    with pytest.raises(InputError, match="x and y seem to be swapped"):
        build_dataset(config_of(tmp_path / "A1.h5ad"), out)


def test_a_few_spots_off_the_picture_are_dropped_by_reason(tmp_path: Path, out: str) -> None:
    data = make_h5ad()
    data.obsm["spatial"][5] = (5000, 40)
    data.write_h5ad(tmp_path / "A1.h5ad")
    manifest, _ = build(config_of(tmp_path / "A1.h5ad"), out)
    assert manifest.sections[0].dropped == {"centre outside the picture": ("2x2",)}
    assert manifest.n_spots == 23


def test_spots_beside_the_tissue_are_dropped_and_a_setting_keeps_them(tmp_path: Path, out: str) -> None:
    data = make_h5ad()
    data.obs["in_tissue"] = [0, 0, 0, *[1] * 21]
    data.write_h5ad(tmp_path / "A1.h5ad")
    manifest, _ = build(config_of(tmp_path / "A1.h5ad"), out)
    assert manifest.sections[0].dropped == {"in_tissue is 0": ("2x1", "3x1", "4x1")}
    assert manifest.sections[0].labels == {"annotated": {"tumour": 21}}
    manifest, states = build(config_of(tmp_path / "A1.h5ad", off_tissue="keep"), out)
    assert (manifest.n_spots, states) == (24, {"A1": "written"})
    data.obs["in_tissue"] = 0
    data.write_h5ad(tmp_path / "A1.h5ad")
    with pytest.raises(InputError, match=r"no spot left \(24 spots: in_tissue is 0\)\n.*`ingest.off_tissue: keep`"):
        build(config_of(tmp_path / "A1.h5ad"), out)


def test_swapped_coordinates_on_a_square_picture_are_warned_of(tmp_path: Path, out: str) -> None:
    data = make_h5ad()
    data.obsm["spatial"] = data.obsm["spatial"][:, ::-1].copy()
    data.write_h5ad(tmp_path / "A1.h5ad")
    manifest, _ = build(config_of(tmp_path / "A1.h5ad"), out)
    assert [
        warning for warning in manifest.sections[0].warnings if "x and y of its spots are probably swapped" in warning
    ]


def test_patches_that_no_picture_can_give_are_refused(source: Path, out: str) -> None:
    for size_um in (0.5, 1e5):
        with pytest.raises(InputError, match=r"HE\.jpg: a patch of .* um is .* pixels of this picture of 240 x 260"):
            build(config_of(source, patch=PatchConfig(size_um=size_um, size_px=16)), out)


def test_upsampling_is_warned_of(source: Path, out: str) -> None:
    manifest, _ = build(config_of(source, patch=PatchConfig(size_um=160.0, size_px=33)), out)
    assert manifest.sections[0].warnings == (
        "its patches are upsampled: 160 um are 32.0 pixels of this picture, the patch has 33",
    )
    manifest, _ = build(config_of(source, patch=PatchConfig(size_um=160.0, size_px=32)), out)
    assert manifest.sections[0].warnings == ()
    manifest, _ = build(config_of(source, patch=PatchConfig(size_um=160.0, size_px=96)), out)
    (warning,) = manifest.sections[0].warnings
    assert warning.startswith("warning: its patches are upsampled 3.0 times: 160 um are 32.0 pixels")
    assert "--patch-px 32" in warning
    assert "--patch-um 480" in warning
    for patch in (PatchConfig(size_um=160.0, size_px=32), PatchConfig(size_um=480.0, size_px=96)):
        assert build(config_of(source, patch=patch), out)[0].sections[0].warnings == ()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_text("")
    for place, complaint in (
        ("file/dataset", "cannot be written"),
        ("file", "is a file"),
        ("photos", "already contains"),
    ):
        with pytest.raises(InputError, match=complaint):
            build_dataset(config_of(source), str(tmp_path / place))
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]


def test_a_disk_that_fails_while_writing_leaves_no_part(source: Path, out: str) -> None:
    Path(out, "spots/A").mkdir(parents=True)
    Path(out, "spots/A/A2").write_text("in the way")
    with pytest.raises(InputError, match=r"A2/part-00000\.parquet: cannot be written"):
        build_dataset(config_of(source), out)
    assert not Path(out, "manifest.json").exists()


def test_a_uri_is_written_and_read_like_a_path(source: Path, out: str) -> None:
    build_dataset(config_of(source), f"file://{out}/")
    here, there = PairedDataset.open(out), PairedDataset.open(f"file://{out}")
    there.verify()
    np.testing.assert_array_equal(here.counts([3, 1]).toarray(), there.counts([3, 1]).toarray())


def test_a_moved_dataset_is_the_same(source: Path, out: str) -> None:
    manifest, _ = build(config_of(source), out)
    shutil.move(out, f"{out}-moved")
    dataset = PairedDataset.open(f"{out}-moved")
    dataset.verify()
    assert dataset.manifest == manifest


def test_synthetic_sections_join_a_cohort(source: Path, out: str) -> None:
    synthetic = SyntheticSourceConfig(patients=2, sections_per_patient=1, spots_per_section=16, genes=50)
    manifest, _ = build(config_of(source, synthetic), out)
    assert [section.name for section in manifest.sections] == ["A1", "A2", "P1S1", "P2S1"]
    assert manifest.n_genes == 54
    assert PairedDataset.open(out).spots().has_counts.all()


def test_a_large_section_in_several_files_reads_the_same(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = SyntheticSourceConfig(patients=2, sections_per_patient=1, spots_per_section=4200, genes=50, images=False)
    build_dataset(config_of(cohort), out)
    monkeypatch.setattr(write, "PART_BYTES", 1)
    manifest = build_dataset(config_of(cohort), f"{out}-parts")
    files = [[(Path(file.path).name, file.rows) for file in section.files] for section in manifest.sections]
    assert files == 2 * [[("part-00000.parquet", 4096), ("part-00001.parquet", 104)]]
    whole, parts = PairedDataset.open(out), PairedDataset.open(f"{out}-parts")
    parts.verify()
    rows = np.random.default_rng(0).permutation(len(whole))
    np.testing.assert_array_equal(parts.counts(rows).toarray(), whole.counts(rows).toarray())
    assert parts.spots().spot_id.tolist() == whole.spots().spot_id.tolist()
    panel = np.arange(50)
    blocks = [block for fragment in parts.fragments(counts=True) for block in read_counts(fragment, panel, 50)]
    read = np.concatenate([block.matrix().toarray() for block in blocks])
    np.testing.assert_array_equal(read, whole.counts(np.arange(len(whole))).toarray())
    assert build(config_of(cohort), f"{out}-parts")[1] == {"P1S1": "kept", "P2S1": "kept"}


def test_a_second_ingest_into_a_folder_is_refused_and_does_not_disturb_the_first(source: Path, out: str) -> None:
    seen: list[str] = []

    def meanwhile(event: dict) -> None:
        if event["event"] == "section":
            with pytest.raises(InputError, match=r"is in use by `stray ingest` of .* \(process \d+\)"):
                build_dataset(config_of(source, patch=PatchConfig(size_um=80.0, size_px=16)), out)
            with pytest.raises(InputError, match=r"the dataset is being written by `stray ingest` of"):
                PairedDataset.open(out)
            seen.append(event["section"])

    build_dataset(config_of(source), out, on_event=meanwhile)
    assert seen == ["A1", "A2"]
    PairedDataset.open(out).verify()


def test_a_dataset_that_was_made_anew_while_it_was_read_is_said(source: Path, out: str) -> None:
    build_dataset(config_of(source), out)
    dataset = PairedDataset.open(out)
    with dataset.unchanged():
        pass

    def read() -> None:
        with dataset.unchanged():
            build_dataset(config_of(source, patch=PatchConfig(size_um=80.0, size_px=16)), out)
            raise ValueError("whatever the reader stumbled on")

    with pytest.raises(InputError, match="was rewritten while this command read it"):
        read()


def test_classes_that_differ_only_by_case_are_warned_of(tmp_path: Path, out: str) -> None:
    for number, (section, patient, label) in enumerate([("A1", "A", "Tumour"), ("B1", "B", "tumour ")]):
        data = make_h5ad(section, patient, seed=number)
        data.obs["label"] = label
        data.write_h5ad(tmp_path / f"{section}.h5ad")
    events: list[dict] = []
    manifest = build_dataset(config_of(tmp_path / "A1.h5ad", tmp_path / "B1.h5ad"), out, on_event=events.append)
    (warning,) = events[-1]["warnings"]
    assert "the classes 'Tumour' and 'tumour' differ only by case" in warning
    assert warning in manifest.warnings
