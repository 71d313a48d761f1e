"""Reading runs, curves and artifacts back from MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping

from stray.errors import InputError, Problem
from stray.track.mlflow_client import open_client, quoted, resolve_uri

# isort: split
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from stray.track.records import RunRecord


class MlflowReader:
    """One experiment of a store, read only."""

    def __init__(self, uri: str, experiment: str | None = None) -> None:
        """Open `experiment` at `uri`; without a name, the one that was changed last.

        Raises InputError when the store or the experiment is not there (naming those that are).
        """
        self.uri = resolve_uri(uri)
        self._client = open_client(self.uri, must_exist=True)
        # The "Default" experiment comes with every store and holds nothing of ours.
        known = {found.name: found for found in self._client.search_experiments() if found.experiment_id != "0"}
        if not known or (experiment is not None and experiment not in known):
            names = ", ".join(sorted(known)) or "none"
            what = f"there is no experiment {experiment!r}" if experiment else "there is no experiment"
            raise InputError(Problem(self.uri, f"{what}; it has: {names}", "name one of them, or train first"))
        # The store lists the one that was changed last first.
        self.experiment = experiment or next(iter(known))
        self._experiment_id = known[self.experiment].experiment_id

    def runs(self, tags: Mapping[str, str] | None = None) -> list[RunRecord]:
        """Return the runs that have all these tag values, newest first."""
        where = " and ".join(f"tags.`{key}` = {quoted(value)}" for key, value in (tags or {}).items())
        records: list[RunRecord] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], where, order_by=["attributes.start_time DESC"], page_token=token
            )
            records.extend(_record(run) for run in page)
            token = page.token
            if not token:
                return records

    def run(self, run_id: str) -> RunRecord | None:
        """Return one run, or None when there is none of that id."""
        try:
            return _record(self._client.get_run(run_id))
        except MlflowException:
            return None

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric in order of steps; of a step logged twice (a resumed run), the later
        value.
        """
        points = self._client.get_metric_history(run_id, metric)
        last = {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}
        return sorted(last.items())

    def download(self, run_id: str, artifact: str, folder: str | os.PathLike[str]) -> str | None:
        """Fetch an artifact into a local folder and return its path; None when the run has none of that name."""
        try:
            if not any(found.path == artifact for found in self._client.list_artifacts(run_id)):
                return None
            return self._client.download_artifacts(run_id, artifact, os.fspath(folder))
        except (MlflowException, OSError):
            return None


def _record(run: Run) -> RunRecord:
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        start_time=run.info.start_time or 0,
        end_time=run.info.end_time,
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
    )
