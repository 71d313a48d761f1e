"""Batch normalisation over the *global* batch, on any device and any number of workers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stray.collective import all_sum, world_size


class GlobalBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d`/`2d` whose statistics in training are those of all workers' rows together.

    Accepts (N, C) and (N, C, H, W). Statistics and their gradient cross workers by a differentiable sum, because
    `SyncBatchNorm` does not run on the CPU; with one worker the framework's own kernel runs.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected 2 or 4 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        axes = (0,) if x.dim() == 2 else (0, 2, 3)
        local_sum_C = x.sum(dim=axes)
        local_count = x.new_full((1,), x.numel() // x.shape[1])
        # Two rounds (mean, then squared distances from it) keep float32 exact where one round of squares would cancel.
        totals = all_sum(torch.cat([local_sum_C, local_count]))
        count = totals[-1].detach()
        mean_C = totals[:-1] / count
        shape = (1, -1) if x.dim() == 2 else (1, -1, 1, 1)
        centred = x - mean_C.view(shape)
        variance_C = all_sum(centred.square().sum(dim=axes)) / count
        self._track(mean_C.detach(), variance_C.detach(), count)
        out = centred * torch.rsqrt(variance_C + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _track(self, mean_C: Tensor, variance_C: Tensor, count: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        with torch.no_grad():
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            unbiased_C = variance_C * (count / (count - 1))
            self.running_mean.lerp_(mean_C.to(self.running_mean), momentum)
            self.running_var.lerp_(unbiased_C.to(self.running_var), momentum)


def globalise(module: nn.Module) -> nn.Module:
    """Replace every batch norm in `module` by a `GlobalBatchNorm` with the same weights and settings, timm's
    `BatchNormAct2d` by one with its activation after it; returns `module`. Other classes derived from torch's stay: who
    knows what else they do.
    """
    for name, child in module.named_children():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d):
            assert isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d))
            setattr(module, name, _twin(child))
        elif isinstance(child, nn.BatchNorm2d) and type(child).__name__ == "BatchNormAct2d":
            setattr(module, name, nn.Sequential(_twin(child), child.get_submodule("drop"), child.get_submodule("act")))
        else:
            globalise(child)
    return module


def _twin(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> GlobalBatchNorm:
    # momentum and eps are floats or None in both classes; only the check of the input's shape differs
    twin = GlobalBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    own = twin.state_dict().keys()
    twin.load_state_dict({name: value for name, value in norm.state_dict().items() if name in own})
    return twin.train(norm.training)
