"""The study of a search: an Optuna study in a store, its first trials, and what every trial ended as."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from stray.config import Recipe
from stray.errors import InputError, raise_if_any, without_secrets
from stray.experiment.samplers import sampler_of
from stray.experiment.space import SearchSpace, Settings
from stray.experiment.study_store import SETTINGS, best_settings, exists, open_storage, study_storage
from stray.stages.results import digest

ERROR, ORIGIN, RUNNER, AGAIN, SCORES = "error", "origin", "runner", "again", "scores"
"""Further user attributes of a trial: why it failed, where queued settings come from, what the process that runs trials
calls it, the number of the failed trial that it repeats, and the scores of its trainings."""

Direction = Literal["maximize", "minimize"]
State = Literal["running", "complete", "pruned", "failed"]
_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class StudyTrial:
    """One trial of a study."""

    number: int
    settings: Settings
    state: State
    values: tuple[float, ...]
    """Its objectives; empty unless it is complete."""
    curve: dict[int, float]
    """Epoch to the score reported then."""
    runner: str
    """Name of the trial in Ray Tune; empty where none runs it."""
    error: str
    """Why it failed."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Score of each of its trainings (inner folds and seeds) by name."""


class SearchStudy:
    """An Optuna study that proposes the settings of trials."""

    def __init__(self, study: optuna.Study, recipe: Recipe) -> None:
        """Use `study` for the space and the sampler of `recipe.search`."""
        self.study = study
        self._search, self._space = recipe.search, SearchSpace.of(recipe)

    @classmethod
    def open(cls, recipe: Recipe, name: str) -> SearchStudy:
        """Open the study in the recipe's store, or create it there. Its first trials are the recipe's own settings and
        those of `search.start_from`.

        Raises InputError where the store cannot be opened, or an earlier search is not found.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # silence its line per study and trial
        starts = list(starting_points(recipe))
        store = open_storage(study_storage(recipe))
        study = optuna.create_study(storage=store, study_name=name, directions=directions(recipe), load_if_exists=True)
        return cls(study, recipe)._begun(starts)

    @classmethod
    def in_memory(cls, recipe: Recipe) -> SearchStudy:
        """Return a new study that is kept nowhere, as `open` would create it."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return cls(optuna.create_study(directions=directions(recipe)), recipe)._begun(list(starting_points(recipe)))

    @classmethod
    def preview(cls, recipe: Recipe, name: str) -> SearchStudy:
        """Return a copy of the study that `open` would open, kept nowhere: asking it changes nothing."""
        address = study_storage(recipe)
        if exists(address):
            store = open_storage(address)
            if name in optuna.get_all_study_names(store):
                copied, memory = "preview", optuna.storages.InMemoryStorage()
                optuna.copy_study(from_study_name=name, from_storage=store, to_storage=memory, to_study_name=copied)
                study = optuna.load_study(study_name=copied, storage=memory)
                return cls(study, recipe)._begun(list(starting_points(recipe)))
        return cls.in_memory(recipe)

    def _begun(self, starts: Sequence[tuple[str, dict[str, Any]]]) -> SearchStudy:
        queued = set()
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and SETTINGS not in trial.user_attrs:
                self.study.tell(trial.number, state=TrialState.FAIL)  # the process ended before it was begun
            elif trial.state == TrialState.WAITING or SETTINGS in trial.user_attrs:
                queued.add(trial.user_attrs.get(ORIGIN))
        for origin, params in starts:
            if params and origin not in queued:
                self.study.enqueue_trial(params, user_attrs={ORIGIN: origin})
        return self

    def ask(self, runner: str = "") -> StudyTrial:
        """Start the next trial: a queued one, else a proposal of the sampler."""
        started = sum(trial.state != TrialState.WAITING for trial in self.study.get_trials(deepcopy=False))
        self.study.sampler = sampler_of(self._search.sampler, self._search.seed, started)
        trial = self.study.ask()
        settings = self._space.suggest(trial)
        trial.set_user_attr(RUNNER, runner)
        trial.set_user_attr(SETTINGS, settings)
        return StudyTrial(trial.number, settings, "running", (), {}, runner, "")

    def assign(self, number: int, runner: str) -> None:
        """Give a running trial to another runner."""
        self.study._storage.set_trial_user_attr(self._frozen(number)._trial_id, RUNNER, runner)

    def report(self, number: int, score: float, epoch: int) -> None:
        """Record a running trial's score after `epoch` epochs. The first score of an epoch stays."""
        trial = self._frozen(number)
        if trial.state == TrialState.RUNNING and math.isfinite(score) and epoch not in trial.intermediate_values:
            self.study._storage.set_trial_intermediate_value(trial._trial_id, epoch, float(score))

    def tell(
        self,
        number: int,
        values: Sequence[float] | None = None,
        *,
        pruned: bool = False,
        error: str = "",
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Record how a trial ended: failed where there is an error or a value that is no number, complete where there
        are values, pruned where `pruned`. `scores` are those of its trainings.

        A trial that has ended already stays as it is. One that had failed, was run again and now has values is recorded
        as a new trial with the same settings, which replaces the failed one in `trials`.
        """
        trial = self._frozen(number)
        finite = values is not None and all(math.isfinite(value) for value in values)
        repeated = any(one.user_attrs.get(AGAIN) == number for one in self.study.get_trials(deepcopy=False))
        if trial.state == TrialState.FAIL and finite and not error and not repeated:
            kept = {name: value for name, value in trial.user_attrs.items() if name != ERROR}
            self.study.add_trial(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    intermediate_values=trial.intermediate_values,
                    values=list(values or ()),
                    user_attrs={**kept, AGAIN: number, **({SCORES: dict(scores)} if scores else {})},
                )
            )
        if trial.state.is_finished():
            return
        if scores:
            finite_scores = {name: score for name, score in scores.items() if math.isfinite(score)}
            self.study._storage.set_trial_user_attr(trial._trial_id, SCORES, finite_scores)
        if error or not (finite or (pruned and values is None)):
            why = error or ("no score" if values is None else f"score {', '.join(map(str, values))}")
            self.study._storage.set_trial_user_attr(trial._trial_id, ERROR, why)
            self.study.tell(number, state=TrialState.FAIL)
        elif finite:
            self.study.tell(number, list(values or ()))
        else:
            self.study.tell(number, state=TrialState.PRUNED)

    def trials(self) -> tuple[StudyTrial, ...]:
        """Return the trials that were started, in order; of a failed one and its repetition the latter."""
        found = [trial for trial in self.study.get_trials(deepcopy=False) if SETTINGS in trial.user_attrs]
        repeated = {trial.user_attrs.get(AGAIN) for trial in found}
        return tuple(_trial(trial) for trial in found if trial.number not in repeated)

    def front(self) -> tuple[int, ...]:
        """Return the numbers of the complete trials that no other one dominates; of one objective the best."""
        return tuple(trial.number for trial in self.study.best_trials)

    def importances(self) -> dict[str, float]:
        """Return the share of the scores' variance by parameter (fANOVA, Hutter et al. 2014), of those that every
        complete trial has; empty where it cannot be computed.
        """
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < 2 or len({tuple(trial.values) for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(
            self.study, evaluator=evaluator, target=lambda trial: trial.values[0]
        )

    def _frozen(self, number: int) -> FrozenTrial:
        store = self.study._storage
        return store.get_trial(store.get_trial_id_from_study_id_trial_number(self.study._study_id, number))


def _trial(trial: FrozenTrial) -> StudyTrial:
    attrs = trial.user_attrs
    return StudyTrial(
        trial.number,
        dict(attrs.get(SETTINGS, {})),
        _STATES[trial.state],
        tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
        dict(trial.intermediate_values),
        attrs.get(RUNNER, ""),
        attrs.get(ERROR, ""),
        dict(attrs.get(SCORES, {})),
    )


def directions(recipe: Recipe) -> tuple[Direction, ...]:
    """Return the direction of each of `search.objectives`."""
    return tuple("minimize" if objective == "hours" else "maximize" for objective in recipe.search.objectives)


def study_name(recipe: Recipe, *parts: Any) -> str:
    """Return the name of a study: the tuned method, and a digest of the settings of the search and of `parts`
    (everything else that a score depends on). A search for more trials continues the study.
    """
    same = replace(recipe.search, trials=1, max_concurrent="auto", storage=None, start_from=(), final=True)
    return f"{recipe.tuned}-{digest(same, *parts)[:8]}"


def starting_points(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the origin and the Optuna parameters of the trials that come first: the recipe's own settings, then the
    best of each search in `search.start_from`. Settings that lie outside the space are left to the sampler.

    Raises InputError for searches that are not found.
    """
    space = SearchSpace.of(recipe)
    problems, found = [], []
    for number, text in enumerate(recipe.search.start_from):
        try:
            settings = best_settings(text, f"search.start_from.{number}", recipe)
            found.append((without_secrets(text), space.params(settings)))
        except InputError as error:
            problems += error.problems
    raise_if_any(problems)
    yield "recipe", space.params(space.fixed)
    yield from found
