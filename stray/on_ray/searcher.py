"""A searcher of Ray Tune over an Optuna study in a store, which records how every trial ended.

Ray's own OptunaSearch leaves trials without a number running, tells trials that a scheduler stopped as complete, and
proposes old points again when a search with a seed is continued.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from stray.experiment.study import SearchStudy, StudyTrial

EPOCH, SCORES, ERROR = "epoch", "scores", "error_text"
"""Keys of a result under which a trial reports its number of epochs, the scores of its trainings, and why it has no
score.
"""


class StudySearcher(Searcher):
    """Ray Tune's view of a `SearchStudy`.

    A trial is complete once a result carries every objective; a trial that a scheduler stops before has none, and is
    told as pruned. Results with a `judged` score and an epoch become the study's intermediate values.
    """

    def __init__(
        self, study: Callable[[], SearchStudy], trials: int, objectives: Sequence[str], judged: str | None = None
    ) -> None:
        """Propose until the study has `trials` trials. `study` opens it: Tune keeps copies of a searcher in files."""
        super().__init__()
        self._open, self._trials, self._objectives, self._judged = study, trials, tuple(objectives), judged
        self._study: SearchStudy | None = None
        self._known: set[str] = set()
        self._errors: dict[str, str] = {}

    @property
    def study(self) -> SearchStudy:
        """The study, opened when it is first needed."""
        if self._study is None:
            self._study = self._open()
        return self._study

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_study": None}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Take nothing from Tune: space and objectives are the study's."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the settings of Tune's trial: first those of trials that an earlier process left running and that
        Tune no longer knows, then new ones.
        """
        trials = self.study.trials()
        left = [trial for trial in trials if trial.state == "running" and trial.runner not in self._known]
        if not left and len(trials) >= self._trials:
            return Searcher.FINISHED
        self._known.add(trial_id)
        if not left:
            return self.study.ask(trial_id).settings
        self.study.assign(left[0].number, trial_id)
        return left[0].settings

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record what a trial reports while it runs: a score, or the error that ends it."""
        if ERROR in result:
            self._errors[trial_id] = str(result[ERROR])
        if self._judged in result and EPOCH in result and (trial := self._find(trial_id)) is not None:
            self.study.report(trial.number, float(result[self._judged]), int(result[EPOCH]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended."""
        if (trial := self._find(trial_id)) is None:
            return
        found = result or {}
        if all(name in found for name in self._objectives):
            values = [_number(found[name]) for name in self._objectives]
            start = f"{SCORES}/"  # Tune flattens results
            scores = {name.removeprefix(start): found[name] for name in found if name.startswith(start)}
            self.study.tell(trial.number, values, error=str(found.get(ERROR, "")), scores=scores)
        elif error:
            self.study.tell(trial.number, error=self._errors.get(trial_id, "the trial raised an error"))
        else:
            self.on_trial_result(trial_id, found)
            self.study.tell(trial.number, pruned=True)

    def save(self, checkpoint_path: str) -> None:
        """Write which of the study's trials Tune knows."""
        Path(checkpoint_path).write_text(json.dumps(sorted(self._known)), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Read which of the study's trials Tune knows; the others are handed out again."""
        self._known = set(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))

    def _find(self, trial_id: str) -> StudyTrial | None:
        return next((trial for trial in self.study.trials() if trial.runner == trial_id), None)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
