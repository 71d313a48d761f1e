"""Files of encoded spots: Parquet, CSV or AnnData, by the file's suffix."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.errors import InputError, Problem

if TYPE_CHECKING:
    from anndata import AnnData

SUFFIXES = (".parquet", ".csv", ".h5ad")
SPATIAL_UNIT = "micrometres from the section's top left corner, x to the right and y downwards"


@dataclass(frozen=True, kw_only=True)
class Coded:
    """Embeddings of n spots, and their classes where the encoder knows any."""

    rows: np.ndarray
    """Global rows of the spots, ascending, (n,) int64."""
    kind: str
    """`features` of an image encoder, or `codes` of a gene encoder."""
    embedding_ND: np.ndarray
    """(n, D) float32."""
    classes: tuple[str, ...] = ()
    """K class names; empty where the encoder classifies nothing."""
    probability_NK: np.ndarray | None = None
    """(n, K); None exactly when there are no classes."""

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each spot, (n,) object."""
        assert self.probability_NK is not None
        return np.array(self.classes, dtype=object)[self.probability_NK.argmax(axis=1)]


def check_suffix(out: str) -> None:
    """Raise InputError unless the suffix of `out` names a format."""
    if not out.lower().endswith(SUFFIXES):
        remedy = f"use a name that ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise InputError(Problem(out, "the suffix is not a format that stray writes", remedy))


def write_coded(coded: Coded, dataset: PairedDataset, out: str, *, embedding: bool = True) -> None:
    """Write the whole file or nothing, a row a spot. Without `embedding` a table holds the classes alone.

    Parquet and CSV: spot_id, patient, section, spot_name, x_um, y_um, then the embedding, `class` and
    `probability/CLASS`. AnnData: see `as_anndata`. Raises InputError where the suffix names no format or the place
    cannot be written.
    """
    check_suffix(out)
    suffix = Path(out).suffix.lower()
    if suffix == ".h5ad":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "coded.h5ad"
            as_anndata(coded, dataset).write_h5ad(path, compression="gzip")
            content = path.read_bytes()
    elif suffix == ".csv":
        frame = _places(coded, dataset)
        if embedding:
            names = [f"{coded.kind}_{k}" for k in range(coded.embedding_ND.shape[1])]
            frame = frame.join(pd.DataFrame(coded.embedding_ND, columns=pd.Index(names)))
        content = frame.join(_classes(coded)).to_csv(index=False).encode()
    else:
        table = pa.Table.from_pandas(_places(coded, dataset), preserve_index=False)
        if embedding:
            flat = pa.array(coded.embedding_ND.ravel())
            lists = pa.FixedSizeListArray.from_arrays(flat, coded.embedding_ND.shape[1])
            table = table.append_column(coded.kind, lists)
        for name, column in _classes(coded).items():
            table = table.append_column(str(name), pa.array(column))
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
    try:
        storage.write_bytes(out, content)
    except OSError as error:
        raise InputError(Problem(out, f"cannot be written: {error}", "give another path with --out")) from error


def as_anndata(coded: Coded, dataset: PairedDataset) -> AnnData:
    """Return an AnnData without counts, to be joined to the source's by its names.

    `obs_names` are the source's own (the spots' ids where these are not unique in the cohort); `obs` holds patient,
    section, spot_id, and with classes `stray_class`, `stray_probability` and `stray_probability_CLASS`;
    `obsm["X_stray"]` the embedding, `obsm["spatial"]` micrometres.
    """
    import anndata

    frame = _places(coded, dataset)
    names = frame["spot_name"] if frame["spot_name"].is_unique else frame["spot_id"]
    obs = frame[["spot_id", "spot_name", "patient", "section"]].set_axis(pd.Index(names, name=None))
    if coded.probability_NK is not None:
        obs["stray_class"] = pd.Categorical(coded.predicted, categories=list(coded.classes))
        obs["stray_probability"] = coded.probability_NK.max(axis=1)
        for k, name in enumerate(coded.classes):
            obs[f"stray_probability_{name.replace('/', '-')}"] = coded.probability_NK[:, k]
    facts = {"embedding": coded.kind, "spatial_unit": SPATIAL_UNIT, "dataset": dataset.manifest.digest}
    data = anndata.AnnData(obs=obs, uns={"stray": facts})
    data.obsm["X_stray"] = coded.embedding_ND
    data.obsm["spatial"] = frame[["x_um", "y_um"]].to_numpy()
    return data


def _places(coded: Coded, dataset: PairedDataset) -> pd.DataFrame:
    spots = dataset.spots().take(coded.rows)
    columns = {"spot_id": spots.spot_id, "patient": spots.patient, "section": spots.section}
    columns |= {"spot_name": dataset.spot_names()[coded.rows], "x_um": spots.x_um, "y_um": spots.y_um}
    return pd.DataFrame(columns)


def _classes(coded: Coded) -> pd.DataFrame:
    if coded.probability_NK is None:
        return pd.DataFrame(index=pd.RangeIndex(len(coded.rows)))
    columns = {"class": coded.predicted}
    return pd.DataFrame(columns | {f"probability/{c}": coded.probability_NK[:, k] for k, c in enumerate(coded.classes)})
