"""Settings of an ingest: sources, label tables, patches."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from stray.errors import InputError, Problem


@dataclass(frozen=True, kw_only=True)
class Her2stSourceConfig:
    """HER2ST in the layout of its public repository."""

    kind: Literal["her2st"] = "her2st"
    path: str
    """Folder that holds `data/ST-cnts`, `data/ST-spotfiles`, `data/ST-imgs`, `data/ST-pat`."""


@dataclass(frozen=True, kw_only=True)
class H5adSourceConfig:
    """AnnData files in the scanpy/squidpy convention; a file, or a folder of them."""

    kind: Literal["h5ad"] = "h5ad"
    path: str
    """One .h5ad file, or a folder whose .h5ad files are all read."""
    pitch_um: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = None
    """Distance of neighbouring spots on the capture array, in micrometres, where the array is known: pixels are then
    measured by it. null: the size of a pixel is the file's own (or the 100 um of a Visium array)."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSourceConfig:
    """A cohort with known truth: tissue classes, patient batch effects, a link between image and genes."""

    kind: Literal["synthetic"] = "synthetic"
    seed: int = 0
    """The cohort's seed; everything in it is a function of this and of the sizes below."""
    patients: Annotated[int, Field(ge=2)] = 6
    """Number of patients, named P1, P2, ..."""
    sections_per_patient: Annotated[int, Field(ge=1)] = 2
    """Sections of each patient."""
    spots_per_section: Annotated[int, Field(ge=16)] = 84
    """Spots of each section, on a hexagonal array."""
    genes: Annotated[int, Field(ge=50)] = 600
    """Number of genes measured."""
    microns_per_pixel: Annotated[float, Field(ge=0.25, le=4)] = 1.75
    """Resolution of the drawn sections: at 1.75, a patch of 112 micrometres is 64 pixels of the picture."""
    images: bool = True
    """Whether sections have pictures; without them a cohort of a million spots is drawn in minutes."""


SourceConfig = Annotated[Her2stSourceConfig | H5adSourceConfig | SyntheticSourceConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class LabelTableConfig:
    """A CSV with the columns section, spot, label that fills labels which a source leaves empty."""

    name: str
    """Becomes the `label_source` of every label that the table fills."""
    path: str
    """The CSV file."""


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """The picture around a spot: a crop of a physical size, resampled to a number of pixels."""

    size_um: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] = 112.0
    """Side of the crop, in micrometres of tissue."""
    size_px: Annotated[int, Field(ge=8, le=4096)] = 64
    """Side of the stored patch, in pixels."""
    encoding: Literal["png", "jpeg"] = "png"
    """File format of a stored patch; png loses nothing."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Sources, tables and patches of a paired dataset."""

    sources: tuple[SourceConfig, ...] = ()
    """Sources of the sections; several become one cohort."""
    labels: tuple[LabelTableConfig, ...] = ()
    """Label tables, applied in order; each fills only labels that are still empty."""
    sections: str = ""
    """A CSV with the column section and any further ones (slide, scanner, kit): what is known of sections as a whole,
    beside what their sources know. `gene.batch_key` may name any of them.
    """
    prefer: tuple[str, ...] = ()
    """Which source wins where two hold a section: `KIND:SECTION`, such as `h5ad:A1`."""
    duplicate_genes: Literal["refuse", "sum"] = "refuse"
    """Treatment of a gene that a section names twice without accessions that tell the copies apart: an error, or the
    sum of the copies. With sum, all genes of one symbol are one gene.
    """
    off_tissue: Literal["drop", "keep"] = "drop"
    """Treatment of spots beside the tissue: those whose obs column `in_tissue` is 0 in an .h5ad file."""
    patch: PatchConfig = field(default_factory=PatchConfig)
    """Size and encoding of the patches."""


def check_values(config: IngestConfig) -> None:
    """Raise InputError where a setting is out of its range, as a recipe would: the class itself checks nothing."""
    try:
        TypeAdapter(IngestConfig).validate_python(asdict(config))
    except ValidationError as error:
        problems = []
        for found in error.errors(include_url=False):
            parts = [str(part) for part in found["loc"] if part not in ("her2st", "h5ad", "synthetic")]
            what = f"is {found['input']!r}: {found['msg'][:1].lower()}{found['msg'][1:]}"
            remedy = "give a value of the range that `stray config` describes"
            problems.append(Problem(".".join(["ingest", *parts]), what, remedy))
        raise InputError(problems) from None
