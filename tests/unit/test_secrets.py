"""Passwords in addresses: cut wherever an address is shown, logged or stored."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from stray.cli import main
from stray.cli.console import cut_secrets_from_logs
from stray.cli.safe import visible
from stray.errors import InputError, Problem, without_secrets
from stray.recipe import dump_yaml, load_recipe
from stray.track.mlflow import MlflowStore
from stray.track.mlflow_reader import MlflowReader

PLAIN = [
    "http://host:5000",
    "http://host:5000/a@b",
    "sqlite:////data/user@site/mlflow.db",
    "s3://bucket/runs@2024/x",
    "see https://host/path, or mail a@b.org",
    "no address: user:password@host",
    "s3://bucket/runs?region=eu-west-1&scheme=http",
]


@pytest.mark.parametrize("text", PLAIN)
def test_an_address_without_secrets_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://ann:hunter2@host:5000/x", "http://host:5000/x"),
        ("https://hunter2@host", "https://host"),
        ("postgresql+psycopg2://ann:hun%40ter2@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("s3://KEY:hunter2/with+slash@bucket/path@1", "s3://bucket/path@1"),
        ("http://ann:hunter2?#@host:80/", "http://host:80/"),
        ("http://ann:hun@ter2@host/", "http://host/"),
        ("http://ann:hun/ter2@x@host/", "http://host/"),
        ("http://ann:5000@host/", "http://host/"),
        ("cannot reach 'http://ann:hunter2@a', http://bob:hunter2@b", "cannot reach 'http://a', http://b"),
        (
            "s3://b/x?access_key=hunter2&secret_key=hunter2&region=eu",
            "s3://b/x?access_key=***&secret_key=***&region=eu",
        ),
        ("https://x.blob.core.windows.net/c?sv=1&sig=hunter2", "https://x.blob.core.windows.net/c?sv=1&sig=***"),
        ("mysql://db/mlflow?user=hunter2&password=hunter2", "mysql://db/mlflow?user=***&password=***"),
    ],
)
def test_user_information_and_secrets_in_queries_are_cut(text: str, left: str) -> None:
    assert without_secrets(text) == left


SECRET = "http://ann:hunter2@127.0.0.1:9"


def test_errors_consoles_and_recipes_show_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    error = InputError(Problem(SECRET, f"{SECRET} fails", f"not {SECRET}"))
    assert "hunter2" not in str(error) + repr(error.problems)
    assert visible(SECRET) == "http://127.0.0.1:9"
    changes = [f"track.uri={SECRET}", "dataset=s3://KEY:hunter2@bucket/data", "output=s3://KEY:hunter2@bucket/runs"]
    recipe = load_recipe("smoke", changes)
    assert recipe.track.uri == SECRET
    text = dump_yaml(recipe)
    assert "hunter2" not in text
    assert "s3://bucket/runs" in text
    for form in ([], ["--flat"], ["--describe"]):
        assert main(["config", "smoke", *[word for one in changes for word in ("--set", one)], *form]) == 0
    assert main(["compare", "--uri", SECRET]) == 2
    shown = capsys.readouterr()
    assert "hunter2" not in shown.out + shown.err
    assert "s3://bucket/runs" in shown.out
    assert "127.0.0.1:9" in shown.err


def test_a_store_keeps_no_password(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with MlflowStore(uri, "secrets") as store:
        run = store.run("cell", tags={"from": SECRET})
        run.params({"track.uri": SECRET, "all": [SECRET]})
        run.warn("server", SECRET)
        run.close()
    (record,) = MlflowReader(uri, "secrets").runs()
    assert record.params == {"track.uri": "http://127.0.0.1:9", "all": '["http://127.0.0.1:9"]'}
    assert "hunter2" not in str(record.tags)


def test_logs_of_libraries_show_no_password() -> None:
    before = logging.getLogRecordFactory()
    stream = io.StringIO()
    logger = logging.getLogger("some.library")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        cut_secrets_from_logs()
        try:
            raise ConnectionError(f"refused by {SECRET}")
        except ConnectionError:
            logger.exception("no answer of %s", SECRET)
        logger.warning("plain %d", 3)
        logger.warning("a fault: %s", ConnectionError(SECRET))
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(before)
    text = stream.getvalue()
    assert "hunter2" not in text
    assert text.startswith("no answer of http://127.0.0.1:9\nTraceback")
    assert "plain 3\na fault: http://127.0.0.1:9\n" in text
