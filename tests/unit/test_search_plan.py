"""What `stray search --dry-run` shows: the space, the first trials and the time, without Ray and without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from stray.cli import main, search_plan
from stray.cohort.dataset import PairedDataset
from stray.experiment.study import SearchStudy, study_name
from stray.experiment.trials import TrialPlan
from stray.recipe import load_recipe
from tests.support.small_cohort import small_dataset

SPACE = (
    "search.space={mix: {kind: simplex, paths: [contrastive.losses.clip.weight, contrastive.losses.guided.weight]}, "
    "contrastive.losses.guided.temperature: {kind: loguniform, low: 0.05, high: 0.5, "
    "  when: {path: contrastive.losses.guided.weight, above: 0}}, "
    "contrastive.projection.size: {kind: choice, values: [16, 32]}, gene.batch_size: {kind: int, low: 16, high: 64}}"
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("plan")
    dataset = small_dataset(folder)
    return [f"dataset={dataset.path}", f"output={folder}/out", SPACE, "search.trials=7"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_plan, "TIMED", 1)


def dry_run(sets: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["search", "smoke", "--dry-run", *(word for text in sets for word in ("--set", text))]) == 0
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_the_trials_that_it_shows_are_those_that_a_search_would_try(
    sets: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = dry_run(sets, capsys)
    recipe = load_recipe("smoke", sets)
    study = SearchStudy.in_memory(recipe)
    trials = [study.ask().settings for _ in range(5)]
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in text.splitlines() if line.startswith("│")}
    for path in ("contrastive.losses.guided.temperature", "contrastive.projection.size"):
        shown = [cell.strip() for cell in rows[path.removeprefix("contrastive.").removeprefix("losses.")]]
        values = [trial.get(path, "-") for trial in trials]
        assert shown == [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
    assert "guided.weight > 0" in text
    assert "16 | 32" in text
    assert "7 trials by tpe, 0 of them done" in text
    assert "trial 0 is the recipe itself" in text
    assert "slot" in text
    assert "7 trials take about" in text
    assert "Nothing was started" in text
    out = Path(sets[1].partition("=")[2])
    assert not out.exists(), "it leaves no trace"


def test_a_search_that_has_begun_shows_what_comes_next(sets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("smoke", sets)
    dataset = PairedDataset.open(recipe.dataset)
    plan = TrialPlan.of(recipe, dataset, f"{recipe.output}/{recipe.name}")
    study = SearchStudy.open(recipe, study_name(recipe, *(cell.key for cell in plan.cells({}))))
    for _ in range(3):
        study.tell(study.ask().number, [0.5])
    left = study.ask()
    text = dry_run(sets, capsys)
    assert "3 of them done" in text
    assert "Next trials" in text
    assert f"{left.settings['contrastive.losses.guided.weight']:.3g}" in text
    assert "4 trials take about" in text
    assert len(study.trials()) == 4, "nothing was asked of the study itself"
    study.tell(left.number, [0.4])
    for _ in range(3):
        study.tell(study.ask().number, [0.5])
    assert "every trial is done" in dry_run(sets, capsys)
