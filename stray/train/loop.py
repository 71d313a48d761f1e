"""The training loop, written once: both stages, with and without Ray, on one process and on many."""

from __future__ import annotations

import time

import torch

from stray.config import OptimConfig
from stray.noise import Noise
from stray.track.tracker import Tracker
from stray.train.averages import Averages
from stray.train.prefetch import Prefetcher
from stray.train.schedules import learning_rate
from stray.train.selection import Selection
from stray.train.state import TrainState, build_optimizer
from stray.train.task import Task
from stray.train.update import update
from stray.train.worker import Worker


def fit(
    task: Task,
    optim: OptimConfig,
    *,
    worker: Worker,
    tracker: Tracker,
    prefix: str,
    seed: int,
    checkpoint_every: int = 1,
    selection: Selection | None = None,
) -> TrainState:
    """Train `task` to its last epoch, or to the one at which `selection` stops, from the worker's newest checkpoint if
    there is one.

    Metrics go to `tracker` as `prefix/name` with the epoch as step, and `prefix/step_loss` with the step; every
    epoch ends with `worker.report`, every `checkpoint_every`-th and the last with a checkpoint. Raises
    FloatingPointError, naming the step, when the loss or a gradient is not finite: that epoch leaves no checkpoint.
    """
    state = TrainState(task.module.to(worker.device), build_optimizer(task.module, optim))
    if (saved := worker.restore()) is not None:
        state.load_state_dict(saved)
    steps = task.plan.steps
    while state.epoch < task.epochs and not (selection and selection.stops(state.history)):
        epoch, factor = state.epoch, selection.rate_factor(state.history, optim) if selection else 1.0
        started, averages, rate = time.perf_counter(), Averages(), optim.lr
        batches = task.plan.batches(epoch)
        noises = [Noise.of_rank(seed, epoch, step, len(batch)) for step, batch in enumerate(batches)]
        data = Prefetcher(lambda noise, batches=batches: task.gather(batches[noise.step][noise.rows], noise))
        losses_and_norms = []
        task.module.train()
        for noise, batch in data.over(noises):
            rate = factor * learning_rate(optim, epoch * steps + noise.step, task.epochs * steps)
            output = task.step(batch, noise)
            losses_and_norms.append(update(state, output, rate, optim.clip_norm))
            task.after_step()
            averages.add(output.sums, output.count)
        losses, norms = _finite(torch.stack(losses_and_norms), f"{prefix} epoch {epoch}").unbind(dim=1)
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
            for step, loss in enumerate(losses.tolist()):
                tracker.metrics({f"{prefix}/step_loss": loss}, step=epoch * steps + step)
            tracker.metrics(named, step=state.epoch)
        if selection and selection.keep_best and selection.best(state.history) == epoch:
            state.mark_best()
        last = state.epoch == task.epochs or (selection is not None and selection.stops(state.history))
        due = state.epoch % checkpoint_every == 0 or last
        worker.report({**named, "epoch": state.epoch}, state.state_dict() if due else None)
    state.go_to_best()
    return state


def _finite(losses_and_norms_S2: torch.Tensor, place: str) -> torch.Tensor:
    """The epoch's global losses and gradient norms on the host, once all are known to be finite.

    They are looked at once an epoch: a look at every step would make a GPU wait for each.
    """
    host_S2 = losses_and_norms_S2.double().cpu()
    finite_S = host_S2.isfinite().all(dim=1)
    if not finite_S.all():
        step = int((~finite_S).nonzero()[0])
        loss, norm = host_S2[step].tolist()
        raise FloatingPointError(
            f"{place}, step {step}: loss {loss}, gradient norm {norm}. The checkpoint of the epoch before is whole; "
            "lower the learning rate or set optim.clip_norm."
        )
    return host_S2
