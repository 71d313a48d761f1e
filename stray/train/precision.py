"""How exact products of float32 matrices are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch


@contextmanager
def matrix_products(precision: Literal["fp32", "mixed"]) -> Iterator[None]:
    """Within, products of float32 matrices are exact, or of torch's `medium` precision: their factors may be rounded
    (to bf16 or TF32) where the hardware is faster at it, their sums are float32.

    On a CPU without such hardware `medium` rounds nothing, and still multiplies by oneDNN, which can be twice as fast
    as the library behind exact products.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
