"""Training loop of both stages, with and without Ray, on one process or many."""

from __future__ import annotations

from torch.amp import GradScaler

from stray.config import OptimConfig
from stray.data.feed import DeviceFeed, Prefetcher, pinned
from stray.noise import Noise
from stray.track.tracker import Tracker
from stray.training.checkpoints import CheckpointInterval, Checkpoints
from stray.training.epoch import EpochSoFar
from stray.training.health import epochs_at_chance, warnings
from stray.training.optim import learning_rate
from stray.training.process import keep_freed_memory, peak_memory
from stray.training.selection import Selection
from stray.training.state import TrainState
from stray.training.task import Task
from stray.training.update import update
from stray.training.worker import Worker

STEP_LOSSES = 16
"""Steps of an epoch, evenly spaced, whose loss is logged: a gene stage takes a hundred steps a second, and logging
each of them in the run of every method that shares the stage takes an MLflow store as long as the training.
"""
EVERY_EPOCH = CheckpointInterval()


def fit(
    task: Task,
    optim: OptimConfig,
    *,
    worker: Worker,
    tracker: Tracker,
    prefix: str,
    seed: int,
    checkpoint_every: CheckpointInterval = EVERY_EPOCH,
    batches_ahead: int = 1,
    selection: Selection | None = None,
    scaler: GradScaler | None = None,
) -> TrainState:
    """Train `task` to its last epoch, or to the one at which `selection` stops, from the worker's newest checkpoint if
    there is one. `scaler` scales the loss where gradients are fp16.

    Metrics go to `tracker` as `prefix/name` with the epoch as step, and `prefix/step_loss` with the step, of
    `STEP_LOSSES` steps an epoch at most; every epoch ends with `worker.report`, with a checkpoint as often as
    `checkpoint_every` says and at the end. `batches_ahead` batches are gathered beside the step.

    Raises NonFiniteStep on every rank alike when the loss or a gradient is not finite; no checkpoint is left from that
    step on.
    """
    keep_freed_memory()
    state = TrainState.start(task.module.to(worker.device), optim, scaler)
    if (saved := worker.restore()) is not None:
        state.load_state_dict(saved)
    steps = task.plan.steps
    checkpoints = Checkpoints(checkpoint_every, worker, state, steps)
    while state.epoch < task.epochs and not (selection and selection.stops(state.history)):
        epoch, factor = state.epoch, selection.rate_factor(state.history, optim) if selection else 1.0
        rate, batches = optim.lr, task.plan.batches(epoch)
        noises = [Noise.of_rank(seed, epoch, step, len(batch)) for step, batch in enumerate(batches)]
        data = Prefetcher(
            lambda noise, batches=batches: pinned(task.gather(batches[noise.step][noise.rows], noise), worker.device),
            batches_ahead,
        )
        so_far = EpochSoFar(epoch, worker, data, state.so_far)
        task.module.train()
        for noise, batch in DeviceFeed(worker.device).over(data.over(noises[state.step :])):
            rate = factor * learning_rate(optim, epoch * steps + noise.step, task.epochs * steps)
            output = task.step(batch, noise)
            so_far.add(output, update(state, output, rate, optim.clip_norm))
            task.after_step()
            state.after_step()
            if checkpoints.due_after(noise.step):
                so_far.check(steps, checkpoints.last)
                state.between_steps(noise.step + 1, so_far.state_dict())
                checkpoints.within()
        losses, norms = so_far.check(steps, checkpoints.last)
        seconds = so_far.seconds
        metrics = {
            "loss": float(losses.mean()),
            **so_far.means(),
            **task.validate(epoch).reduce(worker.all_reduce),
            "gradient_norm": float(norms.mean()),
            **({} if scaler is None else {"skipped_steps": so_far.skipped}),
            "learning_rate": rate,
            "spots_per_second": sum(map(len, batches)) / seconds,
            "waiting_for_data_share": so_far.waited_s / seconds,
            **peak_memory(worker),
        }
        state.epoch_over(metrics)
        metrics |= epochs_at_chance(state.history, optim, task.epochs)
        named = {f"{prefix}/{name}": value for name, value in metrics.items()}
        logged = [(epoch * steps + step, float(losses[step])) for step in range(0, steps, -(-steps // STEP_LOSSES))]
        state.step_losses += logged
        if worker.rank == 0:
            for step, loss in logged:
                tracker.metrics({f"{prefix}/step_loss": loss}, step=step)
            tracker.metrics(named, step=state.epoch)
            for subject, text in warnings(prefix, state.history, optim, task.epochs):
                tracker.warn(subject, text)
        if selection and selection.keep_best and selection.best(state.history) == epoch:
            state.mark_best()
        last = state.epoch == task.epochs or (selection is not None and selection.stops(state.history))
        checkpoints.epoch_over(named, last=last)
    state.take_kept()
    return state
