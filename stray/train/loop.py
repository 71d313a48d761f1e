"""The training loop, written once: both stages, with and without Ray, on one process and on many."""

from __future__ import annotations

import time

from stray.config import OptimConfig
from stray.noise import Noise
from stray.track.tracker import Tracker
from stray.train.averages import Averages
from stray.train.device_feed import DeviceFeed, pinned
from stray.train.finite import SpotsAt, Steps
from stray.train.prefetch import Prefetcher
from stray.train.schedules import learning_rate
from stray.train.selection import Selection
from stray.train.state import TrainState
from stray.train.task import Task
from stray.train.update import update
from stray.train.worker import Worker

STEP_LOSSES = 16
"""Steps of an epoch, evenly spaced, whose loss is logged: a gene stage takes a hundred steps a second, and to log each
in the run of every method that shares the stage cost an MLflow store as much as the training.
"""


def fit(
    task: Task,
    optim: OptimConfig,
    *,
    worker: Worker,
    tracker: Tracker,
    prefix: str,
    seed: int,
    spots_at: SpotsAt,
    checkpoint_every: int = 1,
    batches_ahead: int = 1,
    selection: Selection | None = None,
) -> TrainState:
    """Train `task` to its last epoch, or to the one at which `selection` stops, from the worker's newest checkpoint if
    there is one.

    Metrics go to `tracker` as `prefix/name` with the epoch as step, and `prefix/step_loss` with the step, of
    `STEP_LOSSES` steps an epoch at most; every epoch ends with `worker.report`, every `checkpoint_every`-th and the
    last with a checkpoint. `batches_ahead` of them are gathered beside the step.

    Raises NotFiniteError on every rank when the loss or a gradient is not finite, naming the step, the sections of the
    spots at fault (by `spots_at`, which knows the spots at places among the task's rows) and the last good checkpoint:
    that epoch leaves none.
    """
    state = TrainState.start(task.module.to(worker.device), optim)
    if (saved := worker.restore()) is not None:
        state.load_state_dict(saved)
    steps, kept = task.plan.steps, (state.epoch, None)
    while state.epoch < task.epochs and not (selection and selection.stops(state.history)):
        epoch, factor = state.epoch, selection.rate_factor(state.history, optim) if selection else 1.0
        started, averages, rate = time.perf_counter(), Averages(), optim.lr
        batches = task.plan.batches(epoch)
        noises = [Noise.of_rank(seed, epoch, step, len(batch)) for step, batch in enumerate(batches)]
        data = Prefetcher(
            lambda noise, batches=batches: pinned(task.gather(batches[noise.step][noise.rows], noise), worker.device),
            batches_ahead,
        )
        done = Steps(prefix, epoch)
        task.module.train()
        for noise, batch in DeviceFeed(worker.device).over(data.over(noises)):
            rate = factor * learning_rate(optim, epoch * steps + noise.step, task.epochs * steps)
            output = task.step(batch, noise)
            done.add(output, update(state, output, rate, optim.clip_norm))
            task.after_step()
            state.after_step()
            averages.add(output.sums, output.count)
        losses, norms = done.finish(task, worker, spots_at, kept)
        seconds = time.perf_counter() - started
        metrics = {
            "loss": float(losses.mean()),
            **averages.reduce(worker.all_reduce),
            **task.validate(epoch).reduce(worker.all_reduce),
            "gradient_norm": float(norms.mean()),
            "learning_rate": rate,
            "spots_per_second": sum(map(len, batches)) / seconds,
            "waiting_for_data_share": data.waited_s / seconds,
        }
        state.epoch = epoch + 1
        state.history.append(metrics)
        named = {f"{prefix}/{name}": value for name, value in metrics.items()}
        if worker.rank == 0:
            for step in range(0, steps, -(-steps // STEP_LOSSES)):
                tracker.metrics({f"{prefix}/step_loss": float(losses[step])}, step=epoch * steps + step)
            tracker.metrics(named, step=state.epoch)
        if selection and selection.keep_best and selection.best(state.history) == epoch:
            state.mark_best()
        last = state.epoch == task.epochs or (selection is not None and selection.stops(state.history))
        due = state.epoch % checkpoint_every == 0 or last
        place = worker.report({**named, "epoch": state.epoch}, state.state_dict() if due else None)
        kept = (state.epoch, place) if due else kept
    state.take_kept()
    return state
