"""Randomness carried in hand: every draw is keyed by (seed, epoch, step, site), never by rank or by time.

A draw is made for the *global* batch and each rank takes its rows. The same spots then get the same dropout mask,
latent noise and augmentation on any number of workers, and a resumed run draws what the uninterrupted one would have
drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stray.collective import rank_rows


def key(*parts: int | str) -> int:
    """Return a 63-bit seed from the parts, the same on every machine and in every process."""
    digest = hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """Return a numpy generator seeded by `key(parts)`."""
    return np.random.default_rng(key(*parts))


def torch_generator(*parts: int | str) -> torch.Generator:
    """Return a CPU torch generator seeded by `key(parts)`; draws are made on the CPU so that devices agree."""
    return torch.Generator().manual_seed(key(*parts))


@dataclass(frozen=True)
class Noise:
    """The noise of one step: draws for the `count` spots of the global batch, of which this rank holds `rows`."""

    seed: int
    epoch: int
    step: int
    count: int
    rows: slice
    copies: int = 1
    """Number of copies of the batch, one whole copy after the other, each with draws of its own."""

    @staticmethod
    def of_rank(seed: int, epoch: int, step: int, count: int) -> Noise:
        """Return the noise of a global batch of `count` spots, for this rank's share of it."""
        return Noise(seed, epoch, step, count, rank_rows(count))

    def repeated(self, copies: int) -> Noise:
        """Return the noise of `copies` copies of the batch, stacked: local rows are then (copies * n), copy by copy."""
        return replace(self, copies=copies)

    def part(self, rows: slice) -> Noise:
        """Return the noise of some of this rank's rows, `rows` among them."""
        return replace(self, rows=slice(self.rows.start + rows.start, self.rows.start + rows.stop))

    def normal(self, site: str, size: int, like: Tensor) -> Tensor:
        """Draw standard normal values (local rows, size), on the device and of the type of `like`."""
        return _drawn(self, torch.randn, site, size, like)

    def uniform(self, site: str, size: int, like: Tensor) -> Tensor:
        """Draw values uniform on [0, 1) (local rows, size), on the device and of the type of `like`."""
        return _drawn(self, torch.rand, site, size, like)

    def keep(self, site: str, rate: float, like_nD: Tensor) -> Tensor:
        """Return dropout's factors for `like_nD`: 0 with probability `rate`, else 1 / (1 - rate)."""
        return (self.uniform(site, like_nD.shape[1], like_nD) >= rate).to(like_nD) / (1.0 - rate)


def _draw(noise: Noise, kind: Callable[..., Tensor], site: str, size: int, like: Tensor) -> Tensor:
    """Draw for the global batch, of which this rank takes its rows."""
    generator = torch_generator(noise.seed, noise.epoch, noise.step, site)
    mine_nX = kind(noise.count, noise.copies * size, generator=generator)[noise.rows]
    if noise.copies > 1:
        mine_nX = mine_nX.unflatten(1, (noise.copies, size)).transpose(0, 1).flatten(0, 1)
    # From pinned memory, so that the step does not wait for a GPU.
    return mine_nX.pin_memory().to(like, non_blocking=True) if like.is_cuda else mine_nX.to(like)


_drawn: Callable[..., Tensor] = torch.compiler.disable(_draw)  # pyright: ignore[reportAssignmentType]
"""A compiled step leaves its graph for a draw, whose generator and key the compiler does not know."""
