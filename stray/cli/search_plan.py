"""Output of `stray search --dry-run`: space, first trials, and an estimate of their time. Nothing is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from stray import storage
from stray.cli.console import say, stdout
from stray.cli.plan import duration, slots_of
from stray.cohort.dataset import PairedDataset
from stray.config import (
    ChoiceConfig,
    DistributionConfig,
    IntUniformConfig,
    LogUniformConfig,
    QuantizedUniformConfig,
    Recipe,
    SimplexConfig,
)
from stray.experiment.cells import Cell, Group
from stray.experiment.estimate import Estimator
from stray.experiment.schedule import START_S
from stray.experiment.space import SearchSpace, Settings
from stray.experiment.study import SearchStudy, StudyTrial, study_name
from stray.experiment.study_store import study_storage
from stray.experiment.trials import TrialPlan
from stray.recipe.space import owners, short_names

SHOWN, TIMED = 5, 2
"""Number of trials that are shown, and of those whose steps are timed."""


def show_search(recipe: Recipe) -> None:
    """Print the space of the search, its first trials or the next ones, and the time that all take.

    Raises InputError as the search would.
    """
    dataset = PairedDataset.open(recipe.dataset)
    search = TrialPlan.of(recipe, dataset, storage.join(storage.absolute(recipe.output), recipe.name))
    base = search.cells({})
    name = study_name(recipe, *(cell.key for cell in base))
    study = SearchStudy.preview(recipe, name)
    done = [trial for trial in study.trials() if trial.state != "running"]
    left = max(0, recipe.search.trials - len(done))
    sampler = recipe.search.sampler.kind
    say(f"search of {search.method}: {recipe.search.trials} trials by {sampler}, {len(done)} of them done")
    say(f"{search.how_judged}; never seen: {', '.join(recipe.search.held_out) or 'no patient'}")
    rungs = ", ".join(map(str, search.gates(base[0])))
    kind = recipe.search.scheduler.kind
    say(f"scheduler {kind}: trials may be stopped after epoch {rungs}" if rungs else "no trial is stopped early")
    say(f"study {name} in {study_storage(recipe)}")
    stdout.print(_space_table(recipe))
    if not left:
        say("every trial is done: a search would write the best recipe again. Nothing was started.")
        return
    running = [trial for trial in study.trials() if trial.state == "running"][: min(SHOWN, left)]
    trials = running + [study.ask() for _ in range(min(SHOWN, left) - len(running))]
    stdout.print(_trials_table(recipe, trials))
    cells = [search.cells(trial.settings) for trial in trials[:TIMED]]
    shared, typical = _times(Estimator(dataset.manifest.patch.size_px, dataset.manifest.n_genes), base, cells)
    text = f"about {duration(typical)} a trial"
    text += f" of {search.size} trainings" if search.size > 1 else ""
    text += f", after {duration(shared)} for the gene stages that trials share" if shared else ""
    most = recipe.search.max_concurrent
    plan = slots_of(recipe, search.size * (left if most == "auto" else min(left, most)))
    wall = START_S + (shared + left * typical) / plan.slots
    early = " if none is stopped early" if rungs else ""
    say(
        f"{text}; {plan}: {left} trials take about {duration(wall)} with the start of workers{early}; estimated from "
        f"the first {len(cells)}. Nothing was started."
    )


def _times(estimator: Estimator, base: Sequence[Cell], trials: Sequence[tuple[Cell, ...]]) -> tuple[float, float]:
    """Return the seconds of the stages that the trials share, and the median of each trial's own."""
    common = {stage.key: stage for cell in base for stage in cell.pending_genes(anyway=True)}
    own = [[stage for stage in Group(cells).stages() if stage.key not in common] for cells in trials]
    return sum(map(estimator.stage, common.values())), median(sum(map(estimator.stage, stages)) for stages in own)


def _space_table(recipe: Recipe) -> Table:
    table = Table(title="Space", title_justify="left")
    table.add_column("parameter", no_wrap=True)
    for head in ("values", "recipe", "drawn if"):
        table.add_column(head, overflow="fold", justify="right" if head == "recipe" else "left")
    space, short = SearchSpace.of(recipe), _short_names(recipe)
    for name, dist in recipe.search.space.items():
        when = ""
        if dist.when is not None:
            when = str(replace(dist.when, path=short.get(dist.when.path, dist.when.path)))
        if isinstance(dist, SimplexConfig):
            below = f", 0 below {dist.low:g}" if dist.low else ""
            table.add_row(name, f"weights that sum to one{below}", "", when)
            for path in dist.paths:
                table.add_row(Text(f"  {short[path]}"), "", _value(space.fixed.get(path)), "")
        else:
            table.add_row(short[name], _values(dist), _value(space.fixed.get(name)), when)
    return table


def _values(dist: DistributionConfig) -> str:
    match dist:
        case ChoiceConfig():
            return " | ".join(map(_value, dist.values))
        case SimplexConfig():
            return "simplex"
        case QuantizedUniformConfig():
            return f"{dist.low:g} to {dist.high:g}, steps of {dist.step:g}"
        case IntUniformConfig():
            step = ", log" if dist.log else f", steps of {dist.step}" if dist.step > 1 else ""
            return f"{dist.low} to {dist.high}, whole{step}"
    log = ", log" if isinstance(dist, LogUniformConfig) else ""
    return f"{dist.low:g} to {dist.high:g}{log}"


def _trials_table(recipe: Recipe, trials: list[StudyTrial]) -> Table:
    short = _short_names(recipe)
    own: Settings = SearchSpace.of(recipe).recipe_settings()
    first = trials[0].number == 0 and bool(own) and own.items() <= trials[0].settings.items()
    note = "; trial 0 is the recipe itself" if first and own.keys() == trials[0].settings.keys() else ""
    table = Table(title=f"First trials{note}" if trials[0].number == 0 else "Next trials", title_justify="left")
    table.add_column("trial", no_wrap=True)
    for trial in trials:
        table.add_column(str(trial.number), justify="right", overflow="fold")
    for path in dict.fromkeys(path for trial in trials for path in trial.settings):
        row = [_value(trial.settings[path]) if path in trial.settings else "-" for trial in trials]
        table.add_row(short[path], *row)
    return table


def _short_names(recipe: Recipe) -> dict[str, str]:
    return short_names(list(owners(recipe.search.space)))


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
