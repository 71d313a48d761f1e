"""Profile of a gene stage's step, by torch's profiler."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch.profiler import ProfilerActivity, profile

from jobs.benchmarks.gene.implementation import CONFIG, by_stray

PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear"),
    "entries of the counts (indices, lgamma)": ("index", "take", "lgamma", "gather", "scatter"),
    "exponentials and logarithms of the likelihood": ("softmax", "log", "exp", "sigmoid"),
    "sums, products, copies": ("mul", "add", "sub", "div", "sum", "copy", "abs", "clamp", "reciprocal", "neg", "fill"),
    "batch norm": ("batch_norm",),
    "random numbers": ("uniform", "normal", "rand"),
    "optimiser and gradient norm": ("adam", "optimizer", "norm"),
}
"""Operations by what their names begin with or hold; the first part that fits takes them."""


def time_by_part(counts_NG: sp.csr_matrix, batch_N: np.ndarray, threads: int) -> dict[str, float]:
    """Return the shares of the operations' own time in an epoch of the benchmark's model, not compiled, in this
    process: of the device's time where there is a GPU. What Python takes between operations is not in them.
    """
    before, cuda = torch.get_num_threads(), torch.cuda.is_available()
    torch.set_num_threads(threads)
    try:
        by_stray(counts_NG, batch_N, 1, CONFIG)  # kernels and memory warm up
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities) as profiled:
            by_stray(counts_NG, batch_N, 1, CONFIG)
    finally:
        torch.set_num_threads(before)
    found = dict.fromkeys([*PARTS, "the rest"], 0.0)
    for event in profiled.key_averages():
        time_us = event.self_device_time_total if cuda else event.self_cpu_time_total
        found[_part(event.key)] += float(time_us)
    total = sum(found.values())
    return {name: time_us / total for name, time_us in found.items()}


def _part(operation: str) -> str:
    name = operation.lower()
    for part, words in PARTS.items():
        if any(name.startswith(word) if "::" in word else word in name for word in words):
            return part
    return "the rest"
