"""Manifest of a paired dataset: sections, files, patch size and origin. A dataset with a manifest is complete."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from pydantic import TypeAdapter, ValidationError

from stray import lease, storage
from stray.columns import CLAIMS, CONTRACT_VERSION, MANIFEST
from stray.config.ingest import PatchConfig
from stray.errors import InputError, Problem


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of the dataset."""

    path: str
    """Relative to the dataset."""
    sha256: str
    """SHA-256 of the file's bytes."""
    bytes: int
    """Its size."""
    rows: int
    """Rows of the table in it."""


@dataclass(frozen=True, kw_only=True)
class SectionEntry:
    """One section of the dataset."""

    name: str
    patient: str
    source: str
    """Kind of the reader: `her2st`, `h5ad`, `synthetic`."""
    place: str
    """Path (or settings) of the source that it was read from."""
    fingerprint: str
    """Digest of everything that the section's file is a function of: a re-run skips it where this is unchanged."""
    n_spots: int
    n_genes: int
    """Genes measured in this section; 0 without counts."""
    has_image: bool
    has_counts: bool
    microns_per_pixel: float
    """Micrometres per pixel of the picture's frame."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Further facts about the section, by the name of their column: its slide, scanner, kit. A section lacks a column
    whose value is not known for it; a dataset of an earlier stray has none.
    """
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Label source -> class -> number of spots."""
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reason -> names of the spots that were left out for it."""
    warnings: tuple[str, ...] = ()
    files: tuple[FileEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole dataset; written last and atomically."""

    contract_version: int = CONTRACT_VERSION
    digest: str
    """SHA-256 over the digests of all files: identifies the dataset."""
    sections: tuple[SectionEntry, ...]
    """Sorted by patient and section; the order of the dataset's rows."""
    genes: FileEntry
    """The gene table."""
    n_genes: int
    """Genes of the cohort."""
    measured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Which genes were measured -> the sections in which: a bit for each row of the gene table, compressed, in base 64.
    Empty in a dataset of an earlier stray.
    """
    patch: PatchConfig
    ingest: Mapping[str, object] = field(default_factory=dict)
    """The readers and their options, as they were given."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the software that wrote it."""
    warnings: tuple[str, ...] = ()
    """Warnings about the cohort and no single section."""

    @property
    def n_spots(self) -> int:
        """Spots of all sections."""
        return sum(section.n_spots for section in self.sections)

    @property
    def patients(self) -> tuple[str, ...]:
        """All patients, sorted."""
        return tuple(sorted({section.patient for section in self.sections}))

    def genes_measured(self) -> dict[str, np.ndarray]:
        """Return for each section whether each gene of the gene table was measured in it, (G,) bool; without sections
        of which this is not known.
        """
        found = {}
        for packed, sections in self.measured.items():
            bits = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=np.uint8)
            found |= dict.fromkeys(sections, np.unpackbits(bits, count=self.n_genes).astype(bool))
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that some section has, sorted."""
        return tuple(sorted({name for section in self.sections for name in section.columns}))

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The spot files, in the order of the rows."""
        return tuple(file for section in self.sections for file in section.files)

    @classmethod
    def load(cls, dataset_path: str) -> Manifest:
        """Load the manifest of the dataset at `dataset_path` (path or URI).

        Raises InputError when there is none, when it is of another contract version or not readable as a manifest.
        """
        place = storage.join(dataset_path, MANIFEST)
        try:
            text = storage.read_bytes(place)
        except (FileNotFoundError, NotADirectoryError):
            what = "there is no manifest: this is not a paired dataset, or its ingest has not finished"
            remedy = f"check the path, or run `stray ingest {dataset_path} ...` (again: it continues where it stopped)"
            if (writer := lease.holder(dataset_path, folder=CLAIMS)) is not None:
                what, remedy = f"the dataset is being written by {writer}", "wait until that command has finished"
            raise InputError(Problem(place, what, remedy)) from None
        except OSError as error:
            raise InputError(
                Problem(place, f"cannot be read: {error}", "check the path and its permissions")
            ) from error
        return _parse(text, place)

    def save(self, dataset_path: str) -> None:
        """Write the manifest atomically. Raises OSError when the place cannot be written."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        storage.write_bytes(storage.join(dataset_path, MANIFEST), text.encode())


def pack_genes(index: Mapping[str, np.ndarray], n_genes: int) -> dict[str, tuple[str, ...]]:
    """Return `Manifest.measured` of sections whose genes stand at `index` (rows of the gene table) of each."""
    sections: dict[str, list[str]] = defaultdict(list)
    for name, rows in sorted(index.items()):
        bits = np.zeros(n_genes, dtype=bool)
        bits[rows] = True
        sections[base64.b64encode(zlib.compress(np.packbits(bits).tobytes())).decode()].append(name)
    return {packed: tuple(names) for packed, names in sections.items()}


def dataset_digest(files: Iterable[FileEntry]) -> str:
    """Return SHA-256 over paths and digests of `files`: the same content gives the same digest wherever it lies."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def file_sha256(path: str) -> str:
    """Return SHA-256 of the file at `path` (path or URI), as hexadecimal. Raises OSError when it cannot be read."""
    filesystem, inner = storage.resolve(path)
    digest = hashlib.sha256()
    with filesystem.open_input_stream(inner) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _parse(text: bytes, place: str) -> Manifest:
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise InputError(Problem(place, f"is not JSON: {error}", "ingest the cohort again")) from None
    version = tree.get("contract_version") if isinstance(tree, dict) else None
    if version != CONTRACT_VERSION:
        raise InputError(
            Problem(
                place,
                f"follows version {version} of the dataset contract; this stray reads version {CONTRACT_VERSION}",
                "ingest the cohort again with this version, or install the stray that wrote it",
            )
        )
    try:
        return TypeAdapter(Manifest).validate_json(text)
    except ValidationError as error:
        raise InputError(
            Problem(
                f"{place}: {'.'.join(str(part) for part in problem['loc'])}",
                problem["msg"],
                "ingest again",
            )
            for problem in error.errors()
        ) from None
