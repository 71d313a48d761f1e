"""Flipped bytes and cut ends of a good file and a good picture: read or refused, in processes that live to the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stray.cohort.build import build_dataset
from stray.config.ingest import H5adSourceConfig, IngestConfig
from stray.errors import InputError
from tests.support.careless import beside, bytes_at, good_h5ad, saved
from tests.support.tiny import PATCH, picture

SEEDS, PROCESSES = 200, 4


def spoiled(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with 1 to 30 bytes changed, or cut short."""
    if rng.random() < 0.2:
        return content[: int(rng.integers(len(content)))]
    changed = np.frombuffer(content, np.uint8).copy()
    # Half of them in the head, where sizes and places stand.
    top = len(content) if rng.random() < 0.5 else min(len(content), 4096)
    places = rng.integers(top, size=rng.integers(1, 30))
    changed[places] = rng.integers(256, size=len(places), dtype=np.uint8)
    return changed.tobytes()


def ingest(seed: int, folder: Path) -> str:
    """Ingest what a seed spoils, a file or a picture: `read` or `refused`."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    if seed % 2:
        (folder / "bad.h5ad").write_bytes(spoiled(good_h5ad(), rng))
    else:
        kind = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")[seed // 2 % 5]
        beside(bytes_at("bad.png", spoiled(saved(picture(), kind), rng)))(folder)
    config = IngestConfig(sources=(H5adSourceConfig(path=str(folder / "bad.h5ad")),), patch=PATCH)
    try:
        build_dataset(config, str(folder / "out"))
    except InputError as error:
        unnamed = [problem for problem in error.problems if "bad." not in problem.place or not problem.remedy]
        return "unnamed" if unnamed or (folder / "out/manifest.json").exists() else "refused"
    return "read"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_spoiled_files_are_read_or_refused(tmp_path: Path) -> None:
    running = []
    for number in range(PROCESSES):
        order = [sys.executable, "-m", "tests.unit.cohort.test_fuzz", str(number), str(tmp_path)]
        running.append(subprocess.Popen(order, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    ended = [process.communicate(timeout=240) for process in running]
    outcomes = {}
    for process, (said, errors) in zip(running, ended, strict=True):
        # The last line names the seed at which a process died.
        assert process.returncode == 0, said[-200:] + errors[-3000:]
        outcomes |= dict(line.split() for line in said.splitlines())
    assert len(outcomes) == SEEDS
    assert set(outcomes.values()) == {"read", "refused"}


if __name__ == "__main__":
    for seed in range(int(sys.argv[1]), SEEDS, PROCESSES):
        print(seed, end=" ", flush=True)
        print(ingest(seed, Path(sys.argv[2]) / str(seed)), flush=True)
