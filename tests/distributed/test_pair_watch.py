"""Retrieval and collapse on several gloo processes are those of one process that codes all the held-out spots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stray.cohort.fragments import PatchBlock
from stray.collective import all_sum
from stray.data.blocks import Patches
from stray.metrics.retrieval import ahead, retrieval
from stray.stages.contrastive.monitor import PairMonitor
from stray.training.averages import Averages
from stray.training.process import peak_memory, process_memory
from stray.training.worker import LocalWorker
from tests.support.gloo import Job, run_on

SECTIONS = {"odd": (3, 6, 10), "fewer spots than workers": (1, 2)}


def drawn(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor, np.ndarray]:
    """Pictures (M, 3, 4, 4), gene codes that know something of them (M, 5), sections."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (sum(sizes), 3, 4, 4), dtype=torch.uint8, generator=generator)
    genes = code(pictures, torch.zeros(()))[0] + 0.4 * torch.randn(sum(sizes), 5, generator=generator)
    return pictures, F.normalize(genes, dim=-1), np.repeat([f"S{i}" for i in range(len(sizes))], sizes)


def code(pictures_nCHW: Tensor, genes_nX: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.randn(48, 5, generator=torch.Generator().manual_seed(1))
    return F.normalize(pictures_nCHW.flatten(1).float().sub(127) @ weights, dim=-1), genes_nX


def measured(sizes: tuple[int, ...]) -> dict[str, float]:
    pictures, genes, section = drawn(sizes)
    block = PatchBlock(np.arange(len(section)), pictures.permute(0, 2, 3, 1).contiguous().numpy())
    averages = Averages()
    averages.add(*PairMonitor(Patches([block], np.arange(len(section))), genes, section).measure(code))
    return averages.reduce(all_sum)


def remembered() -> tuple[float, int]:
    """The peak of the greediest worker, and this one's own."""
    return peak_memory(LocalWorker())["peak_memory_gib"], process_memory("VmHWM")


JOBS: dict[str, Job] = {name: (measured, (sizes,)) for name, sizes in SECTIONS.items()} | {"memory": (remembered, ())}


@pytest.fixture(scope="module", params=[1, 2, 4], ids=["one worker", "two workers", "four workers"])
def on_some(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    return run_on(request.param, JOBS)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_worker_finds_what_the_whole_similarity_matrix_says(name: str, on_some: dict[str, list[Any]]) -> None:
    pictures, genes, section = drawn(SECTIONS[name])
    image, gene, own = code(pictures, genes)[0].numpy(), genes.numpy(), np.arange(len(section))
    expected = {}
    for prefix, group in (("validation", np.full(len(section), "")), ("validation_section", section)):
        found = retrieval(ahead(image, gene, own, group), ahead(gene, image, own, group), group)
        expected |= {f"{prefix}_{measure}": value for measure, value in found.items()}
    assert len(expected) == 18
    if name == "odd":
        assert expected["validation_recall_1_chance"] < expected["validation_recall_1_image_to_gene"] < 1
    for rank in on_some[name]:
        assert {n: v for n, v in rank.items() if n.startswith("validation")} == expected
        assert rank.keys() - expected.keys() == {
            f"{tower}_{measure}" for tower in ("image", "gene") for measure in ("spread", "effective_rank")
        }
        assert rank == pytest.approx(on_some[name][0], rel=1e-12)
        assert 2 < rank["gene_effective_rank"] <= 5 or name != "odd"


def test_the_memory_that_is_told_is_that_of_the_worker_that_took_most(on_some: dict[str, list[Any]]) -> None:
    told = {peak for peak, _ in on_some["memory"]}
    assert len(told) == 1
    # Read a moment later, a worker's own may have grown.
    largest = max(own for _, own in on_some["memory"]) / 2**30
    assert 0.95 * largest <= told.pop() <= largest
