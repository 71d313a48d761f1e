"""The scalars of the losses: a logit scale (inverse temperature) each, and the bias of siglip."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stray.config import LossesConfig


class LossScales(nn.Module):
    """A logit scale for each loss over pairs of codes of weight above 0, kept as its logarithm, and siglip's bias.

    Each is fixed or learned.
    """

    def __init__(self, config: LossesConfig) -> None:
        super().__init__()
        self.log_scale = nn.ParameterDict(
            {
                name: nn.Parameter(torch.tensor(-math.log(loss.temperature)), requires_grad=loss.learned)
                for name, loss in config.contrasts.items()
            }
        )
        self.siglip_bias = None
        if (siglip := config.siglip).weight > 0:
            self.siglip_bias = nn.Parameter(torch.tensor(siglip.bias), requires_grad=siglip.learned_bias)
        self._largest = {name: math.log(loss.max_logit_scale) for name, loss in config.contrasts.items()}

    def forward(self) -> dict[str, Tensor]:
        """Return the logit scales by the losses' names."""
        return {name: log_scale.exp() for name, log_scale in self.log_scale.items()}

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep every logit scale within its bound; called after each step of the optimiser."""
        for name, log_scale in self.log_scale.items():
            log_scale.clamp_(max=self._largest[name])
