"""A section's spots as the rows of the Parquet contract, a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from PIL import Image

from stray import columns as c
from stray.cohort.patches import crop, encode, tissue_fraction
from stray.cohort.schema import ROW_GROUP_SPOTS, SPOTS
from stray.cohort.section import Section
from stray.config.ingest import PatchConfig


def row_groups(
    section: Section,
    labels: np.ndarray,
    label_sources: np.ndarray,
    image: Image.Image | None,
    gene_index: np.ndarray | None,
    patch_config: PatchConfig,
) -> Iterator[pa.Table]:
    """Yield the section as tables, one per row group, so that few patches are held at once.

    `labels` and `label_sources` are (S,) objects; `gene_index` gives each of the section's genes its cohort-wide index.
    """
    classes = sorted({label for label in labels if label is not None})
    for start in range(0, len(section.spots), ROW_GROUP_SPOTS):
        rows = slice(start, min(start + ROW_GROUP_SPOTS, len(section.spots)))
        n = rows.stop - start
        encoded: list[bytes | None] = [None] * n
        fractions: list[float | None] = [None] * n
        if image is not None:
            side = patch_config.size_um / section.microns_per_pixel
            for spot, (x, y) in enumerate(section.xy_px[rows]):
                patch = crop(image, x, y, side, patch_config.size_px)
                encoded[spot], fractions[spot] = (
                    encode(patch, patch_config.encoding),
                    tissue_fraction(patch),
                )
        xy_um = section.xy_px[rows] * section.microns_per_pixel
        codes = pa.array(
            [None if label is None else classes.index(label) for label in labels[rows]],
            pa.int32(),
        )
        index, count, total = _count_columns(section, gene_index, rows)
        yield pa.Table.from_arrays(
            [
                pa.array(section.spot_ids[rows], pa.string()),
                pa.array([section.patient] * n, pa.string()),
                pa.array([section.name] * n, pa.string()),
                pa.array(xy_um[:, 0]),
                pa.array(xy_um[:, 1]),
                _nullable(section.array_row, rows),
                _nullable(section.array_col, rows),
                pa.DictionaryArray.from_arrays(codes, pa.array(classes, pa.string())),
                pa.array(label_sources[rows].tolist(), pa.string()),
                pa.array(encoded, pa.binary()),
                index,
                count,
                total,
                pa.array(fractions, pa.float32()),
                pa.array((section.source_names or section.spots)[rows], pa.string()),
            ],
            schema=SPOTS,
        )


def _count_columns(section: Section, gene_index: np.ndarray | None, rows: slice) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return lists of cohort-wide gene indices (ascending) and counts, and their sums."""
    if section.counts is None or gene_index is None:
        n = rows.stop - rows.start
        return (
            pa.nulls(n, SPOTS.field(c.GENE_INDEX).type),
            pa.nulls(n, SPOTS.field(c.GENE_COUNT).type),
            pa.nulls(n, pa.int64()),
        )
    counts = section.counts[rows].astype(np.int64)
    counts.indices = gene_index[counts.indices]
    counts.has_canonical_format = False
    counts.sum_duplicates()  # copies of a gene have one index
    counts.eliminate_zeros()
    offsets = pa.array(counts.indptr, pa.int32())
    values = counts.data.astype(np.uint32)
    sums = np.add.reduceat(np.append(values, 0).astype(np.int64), counts.indptr[:-1])
    totals = np.where(np.diff(counts.indptr) > 0, sums, 0)
    return (
        pa.ListArray.from_arrays(offsets, pa.array(counts.indices, pa.int32())),
        pa.ListArray.from_arrays(offsets, pa.array(values, pa.uint32())),
        pa.array(totals, pa.int64()),
    )


def _nullable(column: np.ndarray | None, rows: slice) -> pa.Array:
    return pa.nulls(rows.stop - rows.start, pa.int32()) if column is None else pa.array(column[rows], pa.int32())
