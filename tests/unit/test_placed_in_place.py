"""Blocks of several chunks are read where they lie: a copy in every worker would break the promise of one a node."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from ray.data.extensions import ArrowTensorArray

from stray.on_ray.data import PATCHES, ROWS, in_place


def test_chunks_are_not_joined() -> None:
    pixels = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    parts = [
        pa.table({ROWS: np.arange(5)[rows], PATCHES: ArrowTensorArray.from_numpy(pixels[rows])})
        for rows in (slice(0, 3), slice(3, 5))
    ]
    found = in_place([pa.concat_tables(parts), parts[0].slice(0, 0)])
    assert [len(part) for part in found] == [3, 2]
    for part, whole in zip(found, parts, strict=True):
        read = part.column(PATCHES).to_numpy()
        assert np.shares_memory(read, whole.column(PATCHES).chunk(0).to_numpy())
    assert (np.concatenate([part.column(PATCHES).to_numpy() for part in found]) == pixels).all()
