"""`stray config new`, and the README's block for a cohort of one's own, on cohorts that are not HER2ST."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from stray.cli import main
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.config import LabelTableConfig
from stray.experiment.grid import Grid, recipe_folds
from stray.recipe import load_recipe
from tests.support.tiny import config_of, make_h5ad

README = Path(__file__).resolve().parents[2] / "README.md"


def block(heading: str) -> list[list[str]]:
    """The commands of the first block under a heading, as words without comments."""
    text = README.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("```sh\n")[1]
    return [shlex.split(line, comments=True) for line in text.partition("```")[0].strip().splitlines()]


def write_cohort(patients: Sequence[str], *, own: Sequence[str], table: Sequence[str], pictures: bool = True) -> None:
    """The dataset `DATASET` here: a section a patient; those of `own` bring labels, `table` labels those of its own."""
    Path("sections").mkdir()
    rows = []
    for seed, patient in enumerate(patients):
        data = make_h5ad(f"{patient}1", patient, seed=seed)
        if patient in table:
            rows += [(f"{patient}1", name, "tumour") for name in data.obs_names]
        if patient not in own:
            data.obs["label"] = pd.Categorical([None] * data.n_obs)
        if not pictures:
            del data.uns["spatial"][f"{patient}1"]["images"]
        data.write_h5ad(f"sections/{patient}1.h5ad")
    labels = ()
    if rows:
        pd.DataFrame(rows, columns=["section", "spot", "label"]).to_csv("labels.csv", index=False)
        labels = (LabelTableConfig(name="pathologist", path="labels.csv"),)
    build_dataset(config_of(*sorted(Path("sections").glob("*.h5ad")), labels=labels), "DATASET")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_the_block_of_the_readme_fits_a_cohort_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    write_cohort(["Q", "R", "S"], own=["Q", "R"], table=["S"])
    commands = block("Your own cohort")
    made = next(words for words in commands if words[:3] == ["stray", "config", "new"])
    assert made[-2] == ">"
    recipe_file = made[-1]
    Path(recipe_file).write_text(printed(capsys, *made[1:-2]), encoding="utf-8")
    assert printed(capsys, "config", recipe_file)
    for words in commands:
        if words[1] in ("train", "search"):
            assert words[2] == recipe_file
            recipe = load_recipe(recipe_file, [words[i + 1] for i, word in enumerate(words) if word == "--set"])
            dataset = PairedDataset.open(recipe.dataset)
            folds = recipe_folds(recipe, dataset)
            assert [fold.held_out for fold in folds] == [("Q",), ("R",), ("S",)]
            assert len(Grid(recipe, dataset, folds, recipe.output)) == len(folds)
        if "--experiment" in words:
            assert words[words.index("--experiment") + 1] == load_recipe(recipe_file).name


def test_a_new_recipe_takes_labels_from_the_dataset_and_trusts_the_sections_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_cohort(["Q", "R", "S"], own=["Q"], table=["R", "S"])
    text = printed(capsys, "config", "new", "--dataset", "DATASET", "--set", "contrastive.epochs=3")
    Path("mine.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe("mine.yaml")
    sources = recipe.eval.label_sources
    assert sources.train == sources.score == ("annotated", "pathologist")
    assert sources.trusted == ("annotated",)
    assert "# Scores on pathologist are marked weak" in text
    assert (recipe.name, recipe.dataset) == ("DATASET", str(Path("DATASET").resolve()))
    assert (recipe.folds.kind, recipe.folds.held_out) == ("leave_one_out", ())
    assert list(recipe.methods) == ["untrained", "clip_mlp", "clip_scvi"]
    assert recipe.contrastive.epochs == 3


def test_labels_of_a_table_alone_are_scored_and_not_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    write_cohort(["Q", "R"], own=[], table=["Q", "R"])
    Path("mine.yaml").write_text(printed(capsys, "config", "new", "--dataset", "DATASET"), encoding="utf-8")
    sources = load_recipe("mine.yaml").eval.label_sources
    assert (sources.train, sources.score, sources.trusted) == (("pathologist",), ("pathologist",), ())


@pytest.mark.parametrize("own", [[], ["Q"]])
def test_without_two_labelled_patients_nobody_is_held_out(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_cohort(["Q", "R"], own=own, table=[])
    text = printed(capsys, "config", "new", "--dataset", "DATASET")
    Path("mine.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe("mine.yaml")
    assert recipe.folds.kind == "none"
    assert "# Nobody is held out" in text
    assert recipe_folds(recipe, PairedDataset.open("DATASET"))


def test_a_cohort_without_pictures_compares_gene_codes(capsys: pytest.CaptureFixture[str]) -> None:
    write_cohort(["Q", "R"], own=["Q", "R"], table=[], pictures=False)
    Path("mine.yaml").write_text(printed(capsys, "config", "new", "--dataset", "DATASET"), encoding="utf-8")
    recipe = load_recipe("mine.yaml")
    assert {method.train for method in recipe.methods.values()} == {"gene"}
    assert recipe_folds(recipe, PairedDataset.open("DATASET"))


@pytest.mark.parametrize(
    ("folder", "name"), [("my cohort (v2)", "my_cohort_v2_"), (".hidden", "hidden"), ("Größe", "Größe"), ("..", "x")]
)
def test_any_folder_gives_a_name_that_a_recipe_may_have(
    folder: str, name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(["Q", "R"], own=["Q", "R"], table=[])
    if folder == "..":
        Path("DATASET").rename("x")
        Path("x/inside").mkdir()
        monkeypatch.chdir("x/inside")
    else:
        Path("DATASET").rename(folder)
    (here / "mine.yaml").write_text(printed(capsys, "config", "new", "--dataset", folder), encoding="utf-8")
    assert load_recipe(str(here / "mine.yaml")).name == name


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["new"], "stray config new --dataset DATASET"),
        (["smoke", "--dataset", "DATASET"], "--set dataset=DATASET"),
        (["new", "--dataset", "nothing"], "stray ingest nothing"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy(
    words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", *words]) == 2
    assert remedy in capsys.readouterr().err
