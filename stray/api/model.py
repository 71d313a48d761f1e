"""A trained image encoder in a notebook: it codes patches, paired datasets and AnnData, without Ray."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stray import storage
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.plausible import WARNING
from stray.config.ingest import H5adSourceConfig, IngestConfig
from stray.errors import InputError, Problem

if TYPE_CHECKING:
    from anndata import AnnData

    from stray.stages.contrastive.exported import TrainedModel

logger = logging.getLogger(__name__)


class Model:
    """A trained image encoder with its probe. Made by `load_model`."""

    def __init__(self, trained: TrainedModel, path: str) -> None:
        self._trained = trained
        self.path = path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes that it tells apart; empty where no training spot had a label."""
        return () if self._trained.probe is None else self._trained.probe.classes

    @property
    def patch_um(self) -> float:
        """Side of the patches that it was trained on, in micrometres."""
        return self._trained.patch.size_um

    @property
    def patch_px(self) -> int:
        """The same in pixels, P."""
        return self._trained.patch.size_px

    def __repr__(self) -> str:
        facts = self._trained.facts
        return (
            f"<stray model {facts.get('method')} of seed {facts.get('seed')}, patches of {self.patch_um:g} um at "
            f"{self.patch_px} px, classes: {', '.join(self.classes) or 'none'}>"
        )

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Return the features (n, D) float32 of RGB patches, uint8 (n, P, P, 3).

        Raises ValueError when they have another shape or type.
        """
        shape = (self.patch_px, self.patch_px, 3)
        if patches.ndim != 4 or patches.shape[1:] != shape or patches.dtype != np.uint8:
            raise ValueError(f"patches are {patches.dtype} {patches.shape}; uint8 (n, *{shape}) is expected")
        return self._trained.features(patches)

    def probabilities(self, patches: np.ndarray) -> pd.DataFrame:
        """Return class probabilities, a row a patch and a column a class, of patches as `encode` takes them.

        Raises InputError where the model has no probe.
        """
        if self._trained.probe is None:
            raise InputError(Problem(self.path, "the model has no probe", "train it on a dataset with labels"))
        return pd.DataFrame(self._trained.probe.probabilities(self.encode(patches)), columns=pd.Index(self.classes))

    def embed(self, dataset: PairedDataset | str) -> AnnData:
        """Code the pictured spots of a paired dataset, see `stray.cohort.coded.as_anndata`.

        Raises InputError when there is no dataset, it has no pictures, or patches of another size.
        """
        from stray.cohort.coded import as_anndata
        from stray.stages.coding import embed

        opened = PairedDataset.open(dataset) if isinstance(dataset, str) else dataset
        return as_anndata(embed(self._trained, opened), opened)

    def annotate(self, adata: AnnData) -> AnnData:
        """Code the spots of an AnnData from its picture, in place; return it.

        The picture, its scale and the spots' positions are found as `stray ingest` finds them: `obsm["spatial"]`,
        `uns["spatial"]`, and a picture that `uns` names. Counts are not needed. Adds `obsm["X_stray"]` (n, D) float32
        and, where the model has classes, `obs["stray_class"]` and `obs["stray_probability"]`. A spot without a patch
        (its centre lies outside the picture) gets nan.

        Raises InputError when the picture or its scale cannot be found, or `obs_names` are not unique.
        """
        from stray.stages.coding import embed

        if not adata.obs_names.is_unique:
            raise InputError(Problem("adata.obs_names", "are not unique", "call adata.obs_names_make_unique() first"))
        with tempfile.TemporaryDirectory(prefix="stray-annotate-") as folder:
            dataset = _dataset_of(adata, self._trained, Path(folder))
            coded = embed(self._trained, dataset)
            place = adata.obs_names.get_indexer(pd.Index(dataset.spot_names()[coded.rows]))
        assert (place >= 0).all()
        features_ND = np.full((adata.n_obs, coded.embedding_ND.shape[1]), np.nan, dtype=np.float32)
        features_ND[place] = coded.embedding_ND
        adata.obsm["X_stray"] = features_ND
        if coded.probability_NK is not None:
            names, best = np.full(adata.n_obs, None, dtype=object), np.full(adata.n_obs, np.nan)
            names[place], best[place] = coded.predicted, coded.probability_NK.max(axis=1)
            adata.obs["stray_class"] = pd.Categorical(names, categories=list(coded.classes))
            adata.obs["stray_probability"] = best
        if absent := adata.n_obs - len(place):
            logger.warning("%d of %d spots have no patch: their features are nan", absent, adata.n_obs)
        return adata


def load_model(path: str | os.PathLike[str], *, trust_code: bool = False) -> Model:
    """Load a model that `train(..., folds="none")` left, on the CPU.

    Raises InputError when there is none, it is not whole, or its encoder is made by a callable that the folder names
    and `trust_code` is false.
    """
    from stray.stages.contrastive.exported import load

    place = storage.absolute(path)
    return Model(load(place, trust_code=trust_code), place)


def _dataset_of(adata: AnnData, model: TrainedModel, folder: Path) -> PairedDataset:
    """Return the spots and pictures of an AnnData as a paired dataset with the model's patches, without counts."""
    import anndata

    if "spatial" not in adata.obsm:
        remedy = "give the spots' centres in pixels of the picture in full resolution"
        raise InputError(Problem('adata.obsm["spatial"]', "is missing", remedy))
    known = [name for name in ("section", "library_id", "array_row", "array_col") if name in adata.obs]
    obs = pd.DataFrame({name: adata.obs[name].to_numpy() for name in known}, index=adata.obs_names)
    obs["patient"] = "unknown-patient"
    slim = anndata.AnnData(obs=obs, uns={"spatial": _with_absolute_pictures(adata.uns.get("spatial", {}))})
    slim.obsm["spatial"] = np.asarray(adata.obsm["spatial"])
    file = folder / "adata.h5ad"
    slim.write_h5ad(file)
    config = IngestConfig(sources=(H5adSourceConfig(path=str(file)),), patch=model.patch, off_tissue="keep")

    def tell(event: dict) -> None:
        for warning in event["warnings"] if event["event"] == "section" else ():
            if warning.startswith(WARNING):
                logger.warning("%s", warning.removeprefix(WARNING))

    try:
        build_dataset(config, str(folder / "dataset"), on_event=tell)
    except InputError as error:
        # The user knows the AnnData, not the file that it was written to.
        raise InputError([_named_adata(problem, file) for problem in error.problems]) from None
    dataset = PairedDataset.open(str(folder / "dataset"))
    if not dataset.spots().has_image.any():
        remedy = 'store the picture in adata.uns["spatial"][LIBRARY]["images"] with its scale factor'
        raise InputError(Problem('adata.uns["spatial"]', "holds no picture of the spots", remedy))
    return dataset


def _with_absolute_pictures(spatial: Mapping[str, Any]) -> dict[str, Any]:
    """Return `uns["spatial"]` with `source_image_path` relative to the working directory made absolute."""
    made: dict[str, Any] = {}
    for name, library in spatial.items():
        metadata = library.get("metadata") if isinstance(library, Mapping) else None
        if isinstance(metadata, Mapping) and isinstance(metadata.get("source_image_path"), str):
            path = os.path.abspath(metadata["source_image_path"])
            library = {**library, "metadata": {**metadata, "source_image_path": path}}
        made[name] = library
    return made


def _named_adata(problem: Problem, file: Path) -> Problem:
    """Return the problem worded for a caller with an AnnData object: no file, no source in a recipe."""
    remedy = problem.remedy.replace(", or set the source's `pitch_um`", "")
    return Problem(*(part.replace(str(file), "adata") for part in (problem.place, problem.what, remedy)))
