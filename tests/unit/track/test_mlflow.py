from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stray.cli import main
from stray.errors import InputError
from stray.recipe import load_recipe
from stray.track.items import LogMetrics, OpenRun
from stray.track.mlflow import MlflowStore
from stray.track.mlflow_client import resolve_uri
from stray.track.mlflow_reader import MlflowReader
from stray.track.place import sqlite_file, sqlite_uri, tracking_uri
from stray.track.spool import Spool
from stray.track.tracker import Tracker


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store on a file, made once: its schema takes seconds."""
    place = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    MlflowStore(place, "first").close()
    return place


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return request.node.name


def test_what_is_logged_can_be_read_back(uri: str, experiment: str, tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"dots")
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "a.csv").write_text("1,2")
    with MlflowStore(uri, experiment) as store:
        parent = store.run("all cells", tags={"stray.kind": "experiment"})
        cell = store.run("clip A 0", parent, {"stray.kind": "cell", "stray.method": "clip's"})
        assert isinstance(cell, Tracker)
        cell.params({"optim.lr": 3e-4, "seeds": [0, 1], "methods.clip.set": {"a": 1}, "none": None})
        for epoch in range(3):
            cell.metrics({"contrastive/loss": 3.0 - epoch, "eval/annotated/probe/recall/in situ": 0.5}, epoch)
        cell.warn("loss_clip", "at chance for 3 epochs")
        cell.artifact(figure, "figures")
        cell.artifact(folder)
        figure.unlink()
        cell.close()
        parent.close("FAILED")
        assert store.flush()
        assert parent.run_id
    reader = MlflowReader(uri, experiment)
    (run,) = reader.runs({"stray.method": "clip's", "stray.kind": "cell"})
    assert run.parent == parent.run_id
    assert (run.name, run.status, run.run_id) == ("clip A 0", "FINISHED", cell.run_id)
    assert run.params["optim.lr"] == "0.0003"
    assert run.tags["stray.warning.loss_clip"] == "at chance for 3 epochs"
    assert json.loads(run.params["seeds"]) == [0, 1]
    assert json.loads(run.params["methods.clip.set"]) == {"a": 1}
    assert reader.history(run.run_id, "contrastive/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    found = reader.download(run.run_id, "figures", tmp_path)
    assert found
    assert (Path(found) / "figure.png").read_bytes() == b"dots"
    assert reader.download(run.run_id, "tables", tmp_path)
    assert reader.download(run.run_id, "absent.txt", tmp_path) is None
    assert {one.name: one.status for one in reader.runs()} == {"clip A 0": "FINISHED", "all cells": "FAILED"}
    assert not (Path(uri.removeprefix("sqlite:///")).parent / "mlflow-unsent").exists()


def test_what_a_training_says_again_after_a_checkpoint_stands_once_in_the_store(uri: str, experiment: str) -> None:
    def epochs(store: MlflowStore, *steps: int) -> str:
        run = store.run("cell", tags={"stray.key": "again"})
        for step in steps:
            run.metrics({"loss": 1.0 / (step + 1), "accuracy": 0.5}, step)
        run.metrics({"score": 0.25})
        assert store.flush()
        assert run.run_id
        return run.run_id

    with MlflowStore(uri, experiment) as store:
        epochs(store, 0, 1, 2, 1, 2, 3)  # a worker was lost
    with MlflowStore(uri, experiment) as store:
        run_id = epochs(store, 2, 3, 4)  # the driver was lost
        other = store.run("cell", tags={"stray.key": "again"})
        other.metrics({"loss": 7.0}, 4)  # another value is said, not said again
        assert store.flush()

        def points(name: str) -> list[tuple[int, float]]:
            return sorted((m.step, m.value) for m in store._client.get_metric_history(run_id, name))

        assert points("loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3), (3, 0.25), (4, 0.2), (4, 7.0)]
        assert points("accuracy") == [(step, 0.5) for step in range(5)]
        assert points("score") == [(0, 0.25)]


def test_a_run_with_the_same_key_is_gone_on_with(uri: str, experiment: str, caplog: pytest.LogCaptureFixture) -> None:
    with MlflowStore(uri, experiment) as store:
        first = store.run("cell", tags={"stray.key": "abc'1"})
        first.params({"epochs": 3})
        first.metrics({"loss": 2.0}, 0)
        first.close("FAILED")
    with MlflowStore(uri, experiment) as store, caplog.at_level(logging.WARNING):
        second = store.run("cell", tags={"stray.key": "abc'1", "stray.job": "j2"})
        other = store.run("cell", tags={"stray.key": "abc'2"})
        second.params({"epochs": 4, "seed": 0})
        second.metrics({"loss": 1.0}, 1)
        second.metrics({"loss": 5.0}, 0)
        assert second.run_id == first.run_id != other.run_id
        for run in (second, other):
            run.close()
    reader = MlflowReader(uri, experiment)
    assert len(reader.runs()) == 2
    assert first.run_id
    run = reader.run(first.run_id)
    assert run is not None
    assert run.status == "FINISHED"
    assert run.tags["stray.job"] == "j2"
    assert run.params == {"epochs": "3", "seed": "0"}
    assert any("epochs" in record.message for record in caplog.records)
    assert reader.history(run.run_id, "loss") == [(0, 5.0), (1, 1.0)]


def logging_process(uri: str, experiment: str, *, end: str) -> None:
    """A process that logs a run and ends before it has seen that anything arrived."""
    script = f"""
import os, signal
from pathlib import Path
from stray.track.items import LogMetrics, OpenRun
from stray.track.mlflow import MlflowStore
store = MlflowStore({uri!r}, {experiment!r})
parent = store.run("all", tags={{"stray.key": "all"}})
run = store.run("cell", parent, {{"stray.key": "cell"}})
run.params({{"epochs": 9}})
for step in range(60):
    run.metrics({{"loss": 1 / (step + 1), "nan": float("nan"), "inf": float("inf")}}, step)
run.metrics({{"score": 0.5}})
Path("figure.png").write_bytes(b"dots")
run.artifact("figure.png", "figures")
run.close()
{end}
"""
    folder = Path(uri.removeprefix("sqlite:///")).parent
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=env)
    assert done.returncode == (-9 if "SIGKILL" in end else 0)


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def assert_whole_and_single(uri: str, experiment: str, folder: Path) -> None:
    reader = MlflowReader(uri, experiment)
    runs = {run.name: run for run in reader.runs()}
    assert runs.keys() == {"cell", "all"}
    run = runs["cell"]
    assert run.status == "FINISHED"
    assert run.parent == runs["all"].run_id
    assert run.params == {"epochs": "9"}
    for name, count in {"loss": 60, "nan": 60, "inf": 60, "score": 1}.items():
        assert len(reader._client.get_metric_history(run.run_id, name)) == count, name
    assert reader.history(run.run_id, "loss") == [(step, 1 / (step + 1)) for step in range(60)]
    found = reader.download(run.run_id, "figures", folder)
    assert found
    assert (Path(found) / "figure.png").read_bytes() == b"dots"


def test_what_a_killed_process_had_not_sent_comes_with_the_next_one_and_once(
    uri: str, experiment: str, tmp_path: Path
) -> None:
    unsent = Path(uri.removeprefix("sqlite:///")).parent / "mlflow-unsent"
    logging_process(uri, experiment, end=KILL)
    (spool,) = unsent.iterdir()
    shutil.copytree(spool, tmp_path / "copy" / spool.name)
    with MlflowStore(uri, experiment) as store:
        assert store.adopted
        again = store.run("all", tags={"stray.key": "all"})
        again.close()
        assert store.flush()
        assert store.has_closed(again)
        assert not spool.exists()
    assert not unsent.exists()
    assert_whole_and_single(uri, experiment, tmp_path / "first")
    # As a process leaves it that is killed after the store has taken everything.
    assert main(["track", "replay", str(tmp_path / "copy")]) == 0
    assert not (tmp_path / "copy").exists()
    assert_whole_and_single(uri, experiment, tmp_path / "second")


def test_a_command_sends_what_is_kept_to_its_store_or_to_another(
    uri: str, experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "lost" / "mlflow-unsent"
    spool = Spool(kept, f"sqlite:///{tmp_path}/lost/mlflow.db", "another")
    spool.append(OpenRun(run="r", name="cell", tags={"stray.key": "cell"}))
    spool.append(LogMetrics(run="r", points=(("loss", 1, 0.5),), time=1))
    spool.close(remove=False)
    assert main(["track", "replay", str(kept), "--uri", "http://ann:hunter2@127.0.0.1:9"]) == 2
    assert main(["track", "replay", str(kept), "--uri", uri, "--experiment", experiment]) == 0
    shown = capsys.readouterr().err
    assert "hunter2" not in shown
    assert f"sent to {uri}, experiment {experiment}" in shown
    assert main(["track", "replay", str(tmp_path)]) == 0
    assert "nothing is unsent" in capsys.readouterr().err
    assert main(["track", "replay", str(tmp_path / "absent")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert [run.metrics for run in MlflowReader(uri, experiment).runs()] == [{"loss": 0.5}]


def test_finished_runs_are_told_with_their_metrics(uri: str, experiment: str) -> None:
    with MlflowStore(uri, experiment) as store:
        runs = [store.run(name, tags={"stray.key": name}) for name in ("done", "failed", "open")]
        runs[0].metrics({"score": 0.5})
        runs[0].close()
        runs[1].close("FAILED")
        assert store.flush()
        assert store.finished() == {"done": {"score"}}
        assert [store.has_closed(run) for run in runs] == [True, True, False]


def test_curves_add_the_points_that_a_run_lacks(uri: str, experiment: str) -> None:
    points = [("loss", step, value) for step, value in enumerate((3.0, 2.0, float("nan"), 1.0))]
    for count in (2, 4):
        with MlflowStore(uri, experiment) as store:
            run = store.run("cell", tags={"stray.key": "cell"})
            run.metrics({"loss": 2.0}, 1)
            run.curves(points[:count])
            run.curves([*points[:count], *points[:count]])
            assert store.flush()
    client = MlflowReader(uri, experiment)._client
    assert run.run_id
    assert sorted(point.step for point in client.get_metric_history(run.run_id, "loss")) == [0, 1, 2, 3]


def test_long_many_and_odd_values_arrive_whole(uri: str, experiment: str, tmp_path: Path) -> None:
    long = "gene " * 4000
    with MlflowStore(uri, experiment) as store:
        run = store.run("cell", tags={"stray.note": "x" * 9000})
        run.params({f"p.{index}": index for index in range(250)} | {"panel": long})
        run.metrics({f"m/{index}": index / 7 for index in range(2500)} | {"nan": float("nan"), "inf": float("inf")})
        assert store.flush()
        run_id = run.run_id
    reader = MlflowReader(uri, experiment)
    assert run_id
    record = reader.run(run_id)
    assert record is not None
    assert len(record.params) == 251
    assert len(record.params["panel"]) <= 6000
    found = reader.download(run_id, "long_params.json", tmp_path)
    assert found
    assert json.loads(Path(found).read_text())["panel"] == long
    assert record.metrics["m/2499"] == pytest.approx(2499 / 7)
    assert np.isnan(record.metrics["nan"])
    assert record.metrics["inf"] > 1e300


def test_a_metric_that_mlflow_refuses_costs_no_other(uri: str, experiment: str, tmp_path: Path) -> None:
    store = MlflowStore(uri, experiment, unsent_folder=str(tmp_path / "unsent"))
    run = store.run("cell")
    run.metrics({"no(brackets)": 1.0})
    run.params({"fine": 1})
    run.metrics({"loss": 1.0, "also(not)": 3.0})
    run.close()
    kept = store.close()
    assert kept is not None
    assert "no(brackets)" in kept.read_text()
    (record,) = MlflowReader(uri, experiment).runs()
    assert record.metrics == {"loss": 1.0}
    assert record.params == {"fine": "1"}
    assert record.status == "FINISHED"


def test_the_model_is_loaded_by_mlflow_alone(uri: str, experiment: str) -> None:
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    example = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    with MlflowStore(uri, experiment) as store:
        run = store.run("cell")
        with pytest.raises(ValueError, match="two items"):
            run.model(encoder, example[:1])
        run.model(encoder, example, "encoder")
        assert encoder.training
        run_id = run.run_id
    images = np.random.default_rng(1).normal(size=(5, 3, 16, 16)).astype(np.float32)
    script = f"""
import sys, mlflow, numpy as np
mlflow.set_tracking_uri({uri!r})
images = np.random.default_rng(1).normal(size=(5, 3, 16, 16)).astype(np.float32)
codes = mlflow.pyfunc.load_model("runs:/{run_id}/encoder").predict(images)
assert not any(name.split(".")[0] == "stray" for name in sys.modules)
print(",".join(repr(float(value)) for value in codes.ravel()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd="/",
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    with torch.no_grad():
        expected = encoder.eval()(torch.from_numpy(images)).numpy()
    assert np.array(done.stdout.strip().split(","), dtype=float).reshape(5, 4) == pytest.approx(expected, abs=1e-6)


def test_several_processes_may_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from stray.track.mlflow import MlflowStore\n"
        f"with MlflowStore('sqlite:///{tmp_path}/mlflow.db', 'shared') as store: store.run(sys.argv[1]).close()"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, str(index)]) for index in range(2)]
    assert [process.wait(120) for process in started] == [0, 0]
    assert {run.name for run in MlflowReader(f"sqlite:///{tmp_path}/mlflow.db", "shared").runs()} == {"0", "1"}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mlruns", "no MLflow store"),
        ("file:///tmp/mlruns", "no MLflow store"),
        ("http://127.0.0.1:9", "cannot be opened"),
    ],
    ids=["a folder", "the file store that MLflow gave up", "a server that is not there"],
)
def test_a_wrong_address_is_said_before_anything_runs(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        MlflowStore(address, "any")


def test_reading_what_is_not_there_says_what_is(uri: str, experiment: str, tmp_path: Path) -> None:
    MlflowStore(uri, experiment).close()
    with pytest.raises(InputError, match=experiment):
        MlflowReader(uri, "no such experiment")
    with pytest.raises(InputError, match="no such file"):
        MlflowReader(f"sqlite:///{tmp_path}/mlflow.db", "any")
    assert not (tmp_path / "mlflow.db").exists()


def test_an_artifact_that_is_absent_is_said_at_once(uri: str, experiment: str, tmp_path: Path) -> None:
    with MlflowStore(uri, experiment) as store, pytest.raises(FileNotFoundError):
        store.run("cell").artifact(tmp_path / "absent.png")


@pytest.mark.parametrize("name", ["a%20b", "a?b", "a#b?c=d&e"])
def test_a_store_lies_where_its_folder_is_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    address = sqlite_uri(folder / "mlflow.db")
    with MlflowStore(address, "odd") as store:
        store.run("cell").close()
    assert (folder / "mlflow.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [run.name for run in MlflowReader(store.uri, "odd").runs()] == ["cell"]
    # As a person writes it, who knows of no escapes.
    assert [run.name for run in MlflowReader(f"sqlite:///{folder}/mlflow.db", "odd").runs()] == ["cell"]


def test_a_query_of_an_address_is_kept(tmp_path: Path) -> None:
    assert resolve_uri(f"sqlite:///{tmp_path}/m.db?timeout=60") == f"sqlite:///{tmp_path}/m.db?timeout=60"
    assert sqlite_file(f"sqlite:///{tmp_path}/m.db?timeout=60") == tmp_path / "m.db"


@pytest.mark.parametrize("fault", ["a file in the way", "no database"])
def test_a_file_that_cannot_hold_a_store_is_said_with_its_remedy(fault: str, tmp_path: Path) -> None:
    place = tmp_path / "runs"
    if fault == "no database":
        place.mkdir()
        (place / "mlflow.db").write_text("not a database, " * 100)
    else:
        place.write_text("in the way")
    with pytest.raises(InputError, match="cannot be opened") as caught:
        MlflowStore(f"sqlite:///{place}/mlflow.db", "any")
    assert "track.uri" in caught.value.problems[0].remedy


def test_results_in_a_bucket_need_a_store_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = load_recipe("smoke", ["output=s3://bucket/runs"])
    with pytest.raises(InputError, match="none can be kept in a bucket") as caught:
        tracking_uri(recipe)
    assert "--set track.uri=http://HOST:5000" in caught.value.problems[0].remedy
    with pytest.raises(InputError, match="lies in the working directory"):
        tracking_uri(load_recipe("smoke", ["output=s3://bucket/runs", "track.uri=sqlite:///mlflow.db"]))
    assert tracking_uri(load_recipe("smoke", [f"output=file://{tmp_path}"])) == f"sqlite:///{tmp_path}/mlflow.db"
    for change in ("track.uri=http://HOST:5000", f"track.uri=sqlite:///{tmp_path}/mlflow.db"):
        assert tracking_uri(load_recipe("smoke", ["output=s3://bucket/runs", change])) == change.partition("=")[2]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://HOST:5000")
    assert tracking_uri(recipe) == "http://HOST:5000"


@pytest.mark.slow
def test_a_full_disk_under_the_store_delays_metrics_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"x" * 100_000)
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True)
    if done.returncode:
        pytest.skip(f"only root may mount a small file system: {done.stderr.decode().strip()}")
    try:
        with MlflowStore(f"sqlite:///{disk}/mlflow.db", "full") as store, caplog.at_level(logging.WARNING):
            run = store.run("cell")
            assert store.flush(30)
            with pytest.raises(OSError, match="No space"):
                (disk / "fill").write_bytes(bytes(3 << 20))
            for step in range(3000):
                run.metrics({"loss": step / 3}, step)
            run.artifact(figure)
            run.close()
            assert not store.flush(1)
            with pytest.raises(InputError, match="disk is full") as caught:
                MlflowStore(f"sqlite:///{disk}/another/mlflow.db", "full")
            assert "with room on its disk" in caught.value.problems[0].remedy
            (disk / "fill").unlink()
            assert store.flush(120)
        (record,) = MlflowReader(f"sqlite:///{disk}/mlflow.db", "full").runs()
        assert (record.status, record.metrics) == ("FINISHED", {"loss": 2999 / 3})
        assert "figure.png is not tracked" in caplog.text
        assert "metrics wait" in caplog.text
        assert "Traceback" not in capfd.readouterr().err
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
