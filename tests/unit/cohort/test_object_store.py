"""The dataset on an object store, by Arrow's S3 client: written in place, since S3 copies no file above 5 GiB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stray import storage
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.errors import InputError
from tests.support.s3_server import LARGEST_COPY, Bucket, serve
from tests.support.tiny import config_of, write_her2st


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with serve() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server


def test_a_dataset_whose_files_are_too_large_to_copy_is_written_and_read(bucket: Bucket, tmp_path: Path) -> None:
    write_her2st(tmp_path, "A1", image=True)
    build_dataset(config_of(tmp_path), "s3://cohorts/her2st")
    dataset = PairedDataset.open("s3://cohorts/her2st")
    dataset.verify()
    assert len(bucket.objects["cohorts/her2st/spots/A/A1/part-00000.parquet"]) > LARGEST_COPY
    assert dataset.counts(np.arange(25)).shape == (25, 4)
    assert not [key for key in bucket.objects if "partial" in key]
    assert not [line for line in bucket.requests if "partial" in line]


def test_a_write_that_fails_leaves_no_file_in_the_bucket(bucket: Bucket) -> None:
    filesystem, inner = storage.resolve("s3://cohorts/file")

    def fail() -> None:
        with storage.new_file(filesystem, inner) as stream:
            stream.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert "cohorts/file" not in bucket.objects
    storage.write_bytes("s3://cohorts/file", b"whole")
    assert storage.read_bytes("s3://cohorts/file") == b"whole"


def test_opening_asks_once_for_all_files_and_makes_one_client(bucket: Bucket, tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        write_her2st(tmp_path, f"A{number}")
    build_dataset(config_of(tmp_path), "s3://cohorts/a%20b")
    assert "cohorts/a b/manifest.json" in bucket.objects
    storage._client.cache_clear()
    bucket.requests.clear()
    dataset = PairedDataset.open("s3://cohorts/a%20b")
    # The manifest, and the listing.
    assert [line for line in bucket.requests if "spots" in line or "genes" in line] == []
    assert len([line for line in bucket.requests if "list-type" in line]) == 1
    assert len(dataset.spots()) == 100
    dataset.verify()
    assert storage._client.cache_info().misses == 1
    del bucket.objects["cohorts/a b/spots/A/A2/part-00000.parquet"]
    with pytest.raises(InputError, match=r"A2/part-00000\.parquet: is missing"):
        PairedDataset.open("s3://cohorts/a%20b")
