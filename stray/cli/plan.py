"""Output of `stray train --plan`: the cells of a recipe and an estimate of their time. Nothing is started."""

from __future__ import annotations

import os

from rich.table import Table

from stray import storage
from stray.cli.console import say, stdout
from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.experiment.cells import fold_title
from stray.experiment.estimate import Estimator
from stray.experiment.grid import Grid, recipe_folds
from stray.experiment.schedule import START_S, jobs_of, schedule
from stray.on_ray import session
from stray.on_ray.resources import SlotPlan, layout, this_machine
from stray.stages.contrastive.patch_size import check_patch_size
from stray.stages.spec import upstream


def show_plan(recipe: Recipe) -> None:
    """Print a row a cell, and the sum. Raises InputError as the training would."""
    dataset = PairedDataset.open(recipe.dataset)
    check_patch_size(recipe, dataset.manifest.patch.size_px)
    root = storage.join(storage.absolute(recipe.output), recipe.name)
    groups = Grid(recipe, dataset, recipe_folds(recipe, dataset), root)
    estimator = Estimator(dataset.manifest.patch.size_px, dataset.manifest.n_genes)
    cells = inner = 0
    table = Table(title_justify="left")
    for name in ("fold", "seed", "method", "gene stage", "contrastive stage"):
        table.add_column(name)
    table.add_column("time", justify="right")
    seen: set[str] = set()
    waiting: set[str] = set()
    for group in groups:
        # A stage that groups share, because their folds train on the same spots, runs once.
        pending = {stage.key: stage for stage in group.stages() if stage.key not in seen}
        seen |= pending.keys()
        waiting |= {cell.scored.key for cell in group.trained if not cell.scored.folder.is_done()}
        cells, inner = cells + len(group.cells), inner + len(group.inner)
        for cell in group.trained:
            # A stage that several cells share is counted with the first of them.
            stages = (*upstream(cell.scored), cell.scored)
            mine = [pending.pop(stage.key) for stage in stages if stage.key in pending]
            gene = next((stage for stage in mine if stage.key == cell.scored.gene.key), None)
            image = next((stage for stage in mine if stage.key == cell.scored.key), None)
            seconds = sum(map(estimator.stage, mine))
            gene_text = "-" if not cell.scored.inputs else str(gene.work) if gene else "shared or done"
            image_text = "done" if cell.scored.folder.is_done() else str(image.work) if image else "shared"
            table.add_row(
                fold_title(cell.fold),
                str(cell.seed),
                cell.method,
                gene_text,
                image_text,
                duration(seconds) if seconds else "-",
            )
        for choice in group.choices:
            one, trial = choice.candidates[0], choice.trials[0]
            what = f"best of {len(choice.trials)} on {'+'.join(trial.fold.held_out)}"
            table.add_row(fold_title(one.fold), str(one.seed), choice.method, what, "-", "-")
        table.add_section()
    table.title = f"{recipe.name}: {cells} cells" + (f", {inner} inner ones to choose by" if inner else "")
    stdout.print(table)
    jobs = jobs_of(groups, estimator)
    plan = slots_of(recipe, len(waiting))
    times = schedule(jobs, plan.slots, start_s=START_S)
    how = "estimated from a few steps of each kind of stage, timed just now"
    if estimator.measured:
        how = f"estimated from earlier stages for {estimator.measured} settings, otherwise {how}"
    say(
        f"{plan}: about {duration(times.wall_s)} for {duration(times.work_s)} of work on one slot, including the start "
        f"of workers; {how}. Nothing was started."
    )


def slots_of(recipe: Recipe, width: int) -> SlotPlan:
    """Return the slots of the cluster that a command would join, or of this machine."""
    if os.environ.get("RAY_ADDRESS", "local") != "local" or session.in_job():
        with session.session():
            return session.plan_slots(recipe.run, width)
    return layout(recipe.run, [this_machine()], width)


def duration(seconds: float) -> str:
    """Return a number of seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
