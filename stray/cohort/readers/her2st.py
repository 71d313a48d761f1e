"""HER2ST (Andersson et al. 2021) in the layout of its public repository.

    data/ST-cnts/A1.tsv.gz                             counts, spots x genes; index `XxY` (array column x array row)
    data/ST-spotfiles/A1_selection.tsv                 x, y (array), pixel_x, pixel_y (on the picture)
    data/ST-imgs/A/A1/*.jpg                            the picture, for some sections
    data/ST-pat/lbl/A1_labeled_coordinates.tsv         x, y (array, not rounded), label, for some sections

The label tables' own pixels are in another frame (y flipped), so labels join on the rounded array position.
"""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from stray.cohort.picture import check_file, open_picture
from stray.cohort.readers import SectionHandle, reading_file
from stray.cohort.readers.tsv import array_places, check_unique, read_tsv, table_of
from stray.cohort.scale import choose_microns_per_pixel, regressed_microns_per_pixel
from stray.cohort.section import Genes, Section, SectionImage, check_section, plural
from stray.cohort.text import clean, irregular, shown, user_path
from stray.config.ingest import Her2stSourceConfig
from stray.errors import InputError, Problem

PITCH_UM = 200.0
"""Distance of neighbouring spots on the arrays of HER2ST."""
_PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
_LONGEST = 2**26
"""Maximum length of the gene header line in characters."""
_SECTION = re.compile(r"([A-Za-z]+)\d+")


class Her2stReader:
    """Sections of HER2ST."""

    kind = "her2st"

    def __init__(self, config: Her2stSourceConfig) -> None:
        self.place = user_path(config.path)
        self._data = Path(self.place) / "data"

    def sections(self) -> tuple[SectionHandle, ...]:
        counted, spotted = (
            self._names("ST-cnts", ".tsv.gz"),
            self._names("ST-spotfiles", "_selection.tsv"),
        )
        names = sorted(counted | spotted)
        if not names:
            raise InputError(
                Problem(
                    self.place,
                    "holds neither data/ST-cnts/*.tsv.gz nor data/ST-spotfiles/*_selection.tsv",
                    "give the folder of a clone of the her2st repository, with its counts unpacked",
                )
            )
        problems = [
            Problem(
                str(self._file("ST-spotfiles", name)),
                f"is missing: the spots of section {name} have counts but no coordinates",
                "fetch the spot file",
            )
            for name in sorted(counted - spotted)
        ]
        if problems:
            raise InputError(problems)
        return tuple(
            SectionHandle(
                name=name,
                patient=_patient(name),
                inputs=self._inputs(name),
                options={"pitch_um": PITCH_UM},
            )
            for name in names
        )

    def remarks(self) -> tuple[str, ...]:
        labelled = self._names("ST-pat/lbl", "_labeled_coordinates.tsv")
        known = self._names("ST-cnts", ".tsv.gz") | self._names("ST-spotfiles", "_selection.tsv")
        return tuple(
            f"section {name} has labels but neither counts nor spot coordinates: it is left out"
            for name in sorted(labelled - known)
        )

    def genes(self, name: str) -> Genes | None:
        path = self._file("ST-cnts", name)
        return Genes(symbols=_header(path)[1:]) if os.path.lexists(path) else None

    def read(self, name: str) -> Section:
        spots = self._spot_file(name)
        genes = self.genes(name)
        dropped: dict[str, tuple[str, ...]] = {}
        warnings: list[str] = []
        counts = None
        # Use all spots of the file, also those without counts: more spots improve the regression.
        microns, remarks = choose_microns_per_pixel(
            regressed_microns_per_pixel(
                spots[["pixel_x", "pixel_y"]].to_numpy(float),
                spots["y"].to_numpy(),
                spots["x"].to_numpy(),
                PITCH_UM,
            ),
            None,
            str(self._file("ST-spotfiles", name)),
            "the spot file needs 8 spots or more that do not lie on a line",
        )
        warnings += remarks
        if genes is not None:
            table = self._counts(name)
            no_place = tuple(spot for spot in table.index if spot not in spots.index)
            no_counts = tuple(spot for spot in spots.index if spot not in table.index)
            dropped |= {"has counts but no coordinates": no_place} if no_place else {}
            dropped |= {"has coordinates but no counts": no_counts} if no_counts else {}
            table = table.loc[[spot for spot in table.index if spot in spots.index]]
            spots = spots.loc[table.index]
            if not len(table):
                example, known = no_place[0] if no_place else "no spot", no_counts[0] if no_counts else "22x12"
                what = f"none of its {len(no_place)} spots is in the spot file, for example {shown(example)}"
                remedy = f"name them like {known} (array column x row), one line per spot and one column per gene"
                raise InputError(Problem(str(self._file("ST-cnts", name)), what, remedy))
            counts = sparse.csr_matrix(table.to_numpy())
            empty = table.index[np.asarray(counts.sum(axis=1)).ravel() == 0]
            if len(empty):
                warnings.append(f"{plural(len(empty), 'spot')} without any counts, kept: {', '.join(empty[:5])}")
        labels, lost = self._labels(name, spots.index)
        if lost:
            dropped["label row without array coordinates"] = lost
            warnings.append(f"{plural(len(lost), 'row')} of the label table without array coordinates")
        section = Section(
            name=name,
            patient=_patient(name),
            spots=tuple(spots.index),
            genes=genes,
            counts=counts,
            xy_px=spots[["pixel_x", "pixel_y"]].to_numpy(float),
            microns_per_pixel=microns,
            array_row=spots["y"].to_numpy(np.int32),
            array_col=spots["x"].to_numpy(np.int32),
            labels=labels,
            image=self._image(name),
            dropped=dropped,
            warnings=tuple(warnings),
        )
        check_section(section, str(self._file("ST-cnts" if genes else "ST-spotfiles", name)))
        return section

    def _names(self, folder: str, suffix: str) -> set[str]:
        return {
            path.name.removesuffix(suffix)
            for path in (self._data / folder).glob(f"*{suffix}")
            if _SECTION.fullmatch(path.name.removesuffix(suffix))
        }

    def _file(self, folder: str, name: str) -> Path:
        suffix = {
            "ST-cnts": ".tsv.gz",
            "ST-spotfiles": "_selection.tsv",
            "ST-pat/lbl": "_labeled_coordinates.tsv",
        }[folder]
        return self._data / folder / f"{name}{suffix}"

    def _inputs(self, name: str) -> tuple[str, ...]:
        files = [self._file(folder, name) for folder in ("ST-cnts", "ST-spotfiles", "ST-pat/lbl")]
        return tuple(str(path) for path in (*files, *self._pictures(name)) if path.exists())

    def _pictures(self, name: str) -> list[Path]:
        folder = self._data / "ST-imgs" / _patient(name) / name
        found = (path for path in folder.glob("*") if path.suffix.lower() in _PICTURES)
        return sorted(path for path in found if not path.name.startswith("."))  # macOS leaves `._NAME` beside NAME

    def _image(self, name: str) -> SectionImage | None:
        folder = self._data / "ST-imgs" / _patient(name) / name
        if not folder.exists():
            return None
        pictures = self._pictures(name)
        if len(pictures) != 1:
            found = ", ".join(path.name for path in pictures) or "none"
            raise InputError(
                Problem(
                    str(folder),
                    f"should hold exactly one picture of section {name}, found {found}",
                    "put the picture there, or remove the folder to ingest the section without pictures",
                )
            )
        path = str(pictures[0])
        check_file(path)
        return SectionImage(place=path, load=lambda: open_picture(path))

    def _spot_file(self, name: str) -> pd.DataFrame:
        path = self._file("ST-spotfiles", name)
        table = table_of(path, ("x", "y", "pixel_x", "pixel_y"))
        place = table[["x", "y", "pixel_x", "pixel_y"]].apply(pd.to_numeric, errors="coerce").astype(float)
        if not np.isfinite(place.to_numpy(float)).all():
            raise InputError(
                Problem(
                    str(path),
                    "holds coordinates that are not numbers",
                    "correct the spot file",
                )
            )
        if not len(place):
            raise InputError(Problem(str(path), "names no spot", "fetch the file again, or leave the section out"))
        names = array_places(place["x"], place["y"], path)
        table = place.assign(x=place["x"].round().astype(int), y=place["y"].round().astype(int))
        table.index = pd.Index(names)
        check_unique(tuple(table.index), path)
        return table

    def _counts(self, name: str) -> pd.DataFrame:
        path = self._file("ST-cnts", name)
        table = read_tsv(path, index=True)
        words = [str(column) for column, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        if words:
            raise InputError(
                Problem(
                    str(path),
                    f"counts of {len(words)} genes are not numbers, such as {words[0]}",
                    "correct them",
                )
            )
        table.index = table.index.astype(str)
        check_unique(tuple(table.index), path)
        return table

    def _labels(self, name: str, spots: pd.Index) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """Return labels of `spots`, and names of the label rows that cannot be placed; None where there is no table."""
        path = self._file("ST-pat/lbl", name)
        if not os.path.lexists(path):
            return None, ()
        table = table_of(path, ("x", "y", "label"))
        x, y = (pd.to_numeric(table[axis], errors="coerce") for axis in ("x", "y"))
        placed = (x.notna() & y.notna()).to_numpy()
        lost = tuple(f"row {row + 1}" for row in np.flatnonzero(~placed))
        keys = array_places(x[placed], y[placed], path)
        check_unique(tuple(keys), path)
        known = dict(zip(keys, table["label"][placed], strict=True))
        labels = np.empty(len(spots), dtype=object)
        labels[:] = [clean(known.get(spot)) for spot in spots]
        if not any(spot in known for spot in spots):
            raise InputError(
                Problem(
                    str(path),
                    f"none of its {len(known)} labels matches a spot of section {name}",
                    "check x and y",
                )
            )
        return labels, lost


def _header(path: Path) -> tuple[str, ...]:
    """Return the first line of a table of counts."""
    if what := irregular(path):
        raise InputError(Problem(str(path), what, "fetch the file again"))
    with reading_file(str(path), "fetch the file again"), gzip.open(path, "rt", encoding="utf-8") as lines:
        return tuple(lines.readline(_LONGEST).rstrip("\r\n").split("\t"))


def _patient(name: str) -> str:
    match = _SECTION.fullmatch(name)
    return match.group(1) if match else name
