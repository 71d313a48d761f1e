"""The Parquet contract: the columns of the spot files and of the gene table, their types, their places."""

from __future__ import annotations

import hashlib
import re

import pyarrow as pa

from stray import columns as c

ROW_GROUP_SPOTS = 4096
"""Maximum number of spots in a row group, which a worker reads in one piece."""

SPOTS = pa.schema(
    [
        pa.field(c.SPOT_ID, pa.string(), nullable=False),
        pa.field(c.PATIENT, pa.string(), nullable=False),
        pa.field(c.SECTION, pa.string(), nullable=False),
        pa.field(c.X_UM, pa.float64(), nullable=False),
        pa.field(c.Y_UM, pa.float64(), nullable=False),
        pa.field(c.ARRAY_ROW, pa.int32()),
        pa.field(c.ARRAY_COL, pa.int32()),
        pa.field(c.LABEL, pa.dictionary(pa.int32(), pa.string())),
        pa.field(c.LABEL_SOURCE, pa.string()),
        pa.field(c.IMAGE, pa.binary()),
        pa.field(c.GENE_INDEX, pa.list_(pa.int32())),
        pa.field(c.GENE_COUNT, pa.list_(pa.uint32())),
        pa.field(c.TOTAL_COUNT, pa.int64()),
        pa.field(c.TISSUE_FRACTION, pa.float32()),
        pa.field(c.SPOT_NAME, pa.string()),
    ]
)
"""One row a spot. `label` and `label_source` are null together, so are `image` and `tissue_fraction`, and so are
`gene_index`, `gene_count` and `total_count`. Positions are micrometres in the section's own frame, y downwards.
`spot_name` is the spot's name as the source writes it."""

GENE_TABLE = pa.schema(
    [
        pa.field("index", pa.int32(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("n_sections", pa.int32(), nullable=False),
    ]
)
"""Every gene of the cohort, sorted by symbol; `index` is the row's number and what `gene_index` refers to."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def folder_name(name: str) -> str:
    """Return `name` of a patient or section as a folder: unchanged when it is safe in every file system and URI.

    Other characters become `-`, and a digest of the name keeps two names that differ only there apart.
    """
    if _PLAIN.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', name).lstrip('.-') or 'x'}-{digest}"


def shard_path(patient: str, section: str, part: int = 0) -> str:
    """Return the place of one file of a section's spots, relative to the dataset."""
    return f"spots/{folder_name(patient)}/{folder_name(section)}/part-{part:05}.parquet"
