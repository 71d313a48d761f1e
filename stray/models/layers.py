"""Layers of any network by its module tree, for layer-wise learning rates and "the last stage"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

FEWEST = 3
"""Stages below which the largest is taken apart: a network with fewer has wrapped them (`features`)."""


@dataclass(frozen=True)
class _Part:
    """A module of the network, or a parameter beside modules."""

    name: str
    module: nn.Module | None
    matrices: int
    """Parameters of two or more dimensions: a convolution with its norm has one, a block has several."""
    size: int

    @property
    def is_stage(self) -> bool:
        return self.matrices > 1


def layers(network: nn.Module) -> list[list[str]]:
    """Return names of the modules (and of parameters beside them) of each layer, from the last layer to the first.

    A layer is a stage or block, whatever has more than one weight matrix, with the single convolutions, norms and
    pooling after it; what comes before the first one is the stem, the last of the list. In a network without blocks
    (VGG) every weight matrix makes a layer. Modules are taken to run in the order in which they were registered.
    """
    parts = _parts("", network)
    while 0 < len(stages := [part for part in parts if part.is_stage]) < FEWEST:
        largest = max(stages, key=lambda part: part.size)
        place = parts.index(largest)
        assert largest.module is not None
        parts[place : place + 1] = _parts(f"{largest.name}.", largest.module)
    found: list[list[str]] = [[]]
    for part in parts:
        if part.is_stage or (not stages and part.matrices):
            found.append([])
        found[-1].append(part.name)
    return [names for names in reversed(found) if names]


def _parts(prefix: str, module: nn.Module) -> list[_Part]:
    own = [_part(f"{prefix}{name}", None, [value]) for name, value in module.named_parameters(recurse=False)]
    return own + [_part(f"{prefix}{name}", child, child.parameters()) for name, child in module.named_children()]


def _part(name: str, module: nn.Module | None, parameters: Iterable[nn.Parameter]) -> _Part:
    held = list(parameters)
    return _Part(name, module, sum(p.dim() > 1 for p in held), sum(p.numel() for p in held))


def depth_of(name: str, found: list[list[str]]) -> int:
    """Return how far the parameter or module `name` lies below the end of the network: 1 in its last layer. A parameter
    in no layer lies in the deepest.
    """
    depths = {part: depth for depth, names in enumerate(found, start=1) for part in names}
    pieces = name.split(".")
    ends = (".".join(pieces[:end]) for end in range(len(pieces), 0, -1))
    return next((depths[part] for part in ends if part in depths), len(found))
