"""A search of a method whose scANVI starts from scVI: trials that need the same stage train it once."""

from __future__ import annotations

from pathlib import Path

import pytest

from stray.cohort.build import build_dataset
from stray.on_ray.progress import NullProgress
from stray.on_ray.search import search
from stray.on_ray.session import SessionInfo
from stray.recipe import apply
from stray.track.mlflow_reader import MlflowReader
from tests.support.small_cohort import small_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]


class Ended(NullProgress):
    """The titles of what came to its end."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def finish(self, key: str, note: str | None = None) -> None:
        self.titles.append(key)


def test_two_equal_trials_at_a_time_train_each_stage_once(ray_session: SessionInfo, tmp_path: Path) -> None:
    changes = {
        "gene.model": {"kind": "scanvi", "scvi_epochs": 1, "n_latent": 5, "n_hidden": 32},
        "gene.epochs": 1,
        # Another scANVI and another scVI than those that the search trains before the trials.
        "search.space": {"gene.model.n_latent": {"kind": "choice", "values": [4]}},
        "run": {"workers": 1, "cpus_per_worker": 1},
    }
    recipe = apply(small_recipe(tmp_path), changes)
    build_dataset(recipe.ingest, recipe.dataset)
    found = search(recipe, progress=(ended := Ended()))
    assert [trial.settings for trial in found.trials] == [{"gene.model.n_latent": 4}] * 2
    assert found.trials[0].score == found.trials[1].score
    stages = [title for title in ended.titles if title.startswith("trial ")]
    assert len(stages) == 3, ended.titles  # scVI, scANVI and the image encoder
    runs = MlflowReader(found.uri, "smoke").runs({"stray.kind": "trial"})
    assert [run.status for run in runs] == ["FINISHED"] * 2
    for run in runs:
        figures = {path.name for path in tmp_path.rglob(f"{run.run_id}/**/codes_*.png")}
        assert figures == {"codes_scvi.png", "codes_scanvi.png"}
