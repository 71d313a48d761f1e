"""The names of the Parquet columns and of the batch keys, once."""

from __future__ import annotations

CONTRACT_VERSION = 1
"""Version of the paired dataset that this code writes and reads."""

SPOT_ID = "spot_id"
PATIENT = "patient"
SECTION = "section"
X_UM = "x_um"
Y_UM = "y_um"
ARRAY_ROW = "array_row"
ARRAY_COL = "array_col"
LABEL = "label"
LABEL_SOURCE = "label_source"
IMAGE = "image"
GENE_INDEX = "gene_index"
GENE_COUNT = "gene_count"
TOTAL_COUNT = "total_count"
TISSUE_FRACTION = "tissue_fraction"
SPOT_NAME = "spot_name"

ANNOTATED = "annotated"
"""Label source of the labels that a section brings itself (a pathologist's, or the synthetic truth)."""

SECTION_FACTS = (PATIENT, SECTION, "source")
"""Facts that every section has, and a batch effect may belong to; `source` is the kind of reader that it came from."""

MANIFEST = "manifest.json"
CLAIMS = ".ingest/lock"
"""Claims of ingests on the dataset, see `stray.lease`."""
GENES = "genes.parquet"

PATCHES = "patches"
"""Batch key: decoded patches, uint8, (spots, height, width, 3)."""
ROWS = "rows"
"""Batch key: each item's row in the dataset's spot table."""
