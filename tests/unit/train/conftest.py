"""The small cohort, written once for the tests of a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from stray.cohort.dataset import PairedDataset
from tests.support.small_cohort import small_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> PairedDataset:
    return small_dataset(folder)
