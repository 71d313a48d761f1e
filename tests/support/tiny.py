"""Small cohorts on disk: HER2ST's layout and .h5ad files, with everything that a test may want to spoil."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse

from stray.config.ingest import H5adSourceConfig, Her2stSourceConfig, IngestConfig, PatchConfig, SourceConfig

PITCH_PX = 40.0
"""Of the tiny HER2ST sections: 200 um, so 5 um a pixel."""
SIDE = 5
"""Spots along each side of a tiny section."""
GENES = ("ACTB", "CD3E", "ERBB2", "MKI67")
PICTURE = (240, 260)
"""Width and height."""
PATCH = PatchConfig(size_um=160.0, size_px=16)
NAMES = [f"{x}x{y}" for y in range(1, SIDE + 1) for x in range(1, SIDE + 1)]


def picture(seed: int = 0, size: tuple[int, int] = PICTURE) -> Image.Image:
    """A smooth coloured picture without symmetry, which resampling does not blur away."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def counts_of(seed: int, n_spots: int, n_genes: int) -> np.ndarray:
    """Counts with zeros among them."""
    return np.random.default_rng(seed).poisson(1.5, (n_spots, n_genes))


def write_counts(folder: Path, section: str, counts: pd.DataFrame) -> None:
    """`data/ST-cnts/SECTION.tsv.gz`."""
    path = folder / "data/ST-cnts" / f"{section}.tsv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        counts.to_csv(file, sep="\t")


def write_her2st(
    folder: Path,
    section: str = "A1",
    *,
    genes: Sequence[str] = GENES,
    spots: Sequence[str] = NAMES,
    labels: bool = False,
    image: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """A section of SIDE x SIDE spots at 5 um a pixel; returns its counts."""
    data = folder / "data"
    counts = pd.DataFrame(counts_of(seed, len(spots), len(genes)), index=pd.Index(spots), columns=pd.Index(genes))
    write_counts(folder, section, counts)
    array = np.array([[int(part) for part in name.split("x")] for name in NAMES])
    place = pd.DataFrame({"x": array[:, 0], "y": array[:, 1]})
    place["pixel_x"], place["pixel_y"] = array[:, 0] * PITCH_PX, array[:, 1] * PITCH_PX
    (data / "ST-spotfiles").mkdir(exist_ok=True)
    place.to_csv(data / "ST-spotfiles" / f"{section}_selection.tsv", sep="\t", index=False)
    if labels:
        (data / "ST-pat/lbl").mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"Row.names": range(len(array)), "x": array[:, 0] + 0.18, "y": array[:, 1] - 0.18})
        # The other frame of the real tables, y flipped: whoever joins on pixels gets wrong labels.
        table["pixel_x"], table["pixel_y"] = place["pixel_x"], PICTURE[1] - place["pixel_y"]
        table["label"] = ["tumour" if x <= 2 else "fat" for x in array[:, 0]]
        table.to_csv(data / "ST-pat/lbl" / f"{section}_labeled_coordinates.tsv", sep="\t", index=False)
    if image:
        path = picture_path(folder, section)
        path.parent.mkdir(parents=True)
        picture(seed).save(path, quality=95)
    return counts


def picture_path(folder: Path, section: str) -> Path:
    """Where `write_her2st` puts the picture."""
    return folder / "data/ST-imgs" / section[0] / section / "HE.jpg"


def make_h5ad(section: str = "A1", patient: str = "A", *, seed: int = 1, genes: Sequence[str] = GENES) -> ad.AnnData:
    """The same array as AnnData in the scanpy convention, 10 um a pixel, all spots but the first."""
    array = np.array([[int(part) for part in name.split("x")] for name in NAMES[1:]])
    counts = counts_of(seed, len(array), len(genes)).astype(np.int32)
    data = ad.AnnData(
        X=sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {"patient": patient, "section": section, "label": pd.Categorical([None, *["tumour"] * (len(array) - 1)])},
            index=pd.Index([f"{section}_{name}" for name in NAMES[1:]]),
        ),
        var=pd.DataFrame(index=pd.Index(genes)),
    )
    data.obsm["spatial"] = array * PITCH_PX
    data.uns["spatial"] = {
        section: {
            "images": {"hires": np.asarray(picture(seed, (PICTURE[0] // 2, PICTURE[1] // 2)))},
            "scalefactors": {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 20.0},
            "metadata": {"microns_per_pixel": 5.0},
        }
    }
    return data


def config_of(*sources: SourceConfig | Path, **others: object) -> IngestConfig:
    """An ingest of folders in HER2ST's layout and of .h5ad files, with patches of 16 pixels."""
    made = tuple(
        source
        if not isinstance(source, Path)
        else H5adSourceConfig(path=str(source))
        if source.suffix == ".h5ad"
        else Her2stSourceConfig(path=str(source))
        for source in sources
    )
    return IngestConfig(sources=made, **{"patch": PATCH, **others})  # type: ignore[arg-type]
