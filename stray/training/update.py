"""Optimiser step from a rank's loss, the same on every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from stray.collective import world_size
from stray.training.optim import LR_MULTIPLIER
from stray.training.state import TrainState
from stray.training.task import StepOutput


def update(state: TrainState, output: StepOutput, rate: float, clip_norm: float | None) -> Tensor:
    """Take one step: backward, sum of gradients over ranks, step at `rate` times each group's own multiplier. Returns
    the global loss, the gradient's norm, and 1 where the step was taken, shape (3,), on the device.

    With a scaler, a step whose gradient overflowed is skipped, on all ranks alike, and the next one is scaled less.
    The learning rate depends on a step's index in the training, so a skipped step does not delay the schedule.
    """
    scaler = state.scaler
    (output.loss if scaler is None else scaler.scale(output.loss)).backward()
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    loss = sum_over_ranks(trained, output.loss.detach())
    if scaler is not None:
        scaler.unscale_(state.optimizer)
    if clip_norm is None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    else:
        norm = torch.nn.utils.clip_grad_norm_(trained, clip_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group.get(LR_MULTIPLIER, 1.0)
    if scaler is None:
        state.optimizer.step()
    else:
        # A loss or unscaled gradient that overflows is a real error: leave both to be detected.
        overflowed = bool(loss.isfinite() & ~norm.isfinite())
        state.skipped = overflowed and scaler.get_scale() > 1.0
        scaler.step(state.optimizer)
        scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return torch.stack([loss.float(), norm.float(), torch.full_like(loss, 0.0 if state.skipped else 1.0).float()])


def sum_over_ranks(parameters: list[Parameter], loss: Tensor) -> Tensor:
    """Replace each gradient by its sum over ranks, in one collective with the loss; returns the summed loss.

    Each rank's loss is its part of the global loss, so sums, not means, give the gradient of the whole batch.
    """
    for parameter in parameters:
        if parameter.grad is None:
            # Parameters that no loss reaches (unused parts of an encoder) decay the same on one worker as on many.
            parameter.grad = torch.zeros_like(parameter)
    if world_size() == 1:
        return loss
    flat = torch.cat([*(p.grad.reshape(-1) for p in parameters if p.grad is not None), loss.reshape(1)])
    dist.all_reduce(flat)
    place = 0
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.copy_(flat[place : place + parameter.numel()].view_as(parameter))
        place += parameter.numel()
    return flat[-1]
