"""Matrix-product precision and autocast dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch


@contextmanager
def matrix_products(precision: Literal["fp32", "mixed"]) -> Iterator[None]:
    """Set the precision of float32 matrix products within the context: exact, or torch's `medium`, in which factors may
    be rounded (to bf16 or TF32) where the hardware is faster at it and sums are float32.

    On a CPU without such hardware `medium` rounds nothing, and still multiplies by oneDNN, which can be twice as fast
    as the library behind exact products.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def half_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of the towers' products under `precision`; None: the type of their weights."""
    if precision == "auto":
        return torch.bfloat16 if multiplies_bf16(device) else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # A private name, so its absence means no.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
