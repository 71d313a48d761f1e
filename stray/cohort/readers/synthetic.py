"""The synthetic cohort as a source: its sections are drawn when they are read."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial

from stray.cohort.readers import SectionHandle
from stray.cohort.section import Genes, Section, SectionImage
from stray.cohort.synthetic import (
    DRAWING_VERSION,
    class_names,
    draw_counts,
    draw_image,
    draw_layout,
    gene_symbols,
)
from stray.config.ingest import SyntheticSourceConfig
from stray.errors import InputError, Problem

_NAME = re.compile(r"P([1-9]\d*)S([1-9]\d*)")


class SyntheticReader:
    """Sections P1S1, P1S2, ..., P6S2 of the cohort that the settings describe."""

    kind: str = "synthetic"

    def __init__(self, config: SyntheticSourceConfig) -> None:
        self.config = config
        self.place = f"synthetic cohort (seed {config.seed})"

    def sections(self) -> tuple[SectionHandle, ...]:
        """Return all sections, by patient."""
        options = asdict(self.config)
        # A section does not depend on the cohort's size, so growing the cohort keeps its sections.
        del options["patients"], options["sections_per_patient"]
        if self.config.images:
            del options["images"]  # omit the default, so that sections drawn before the setting existed remain valid
        options["drawing"] = DRAWING_VERSION
        return tuple(
            SectionHandle(name=f"P{patient + 1}S{section + 1}", patient=f"P{patient + 1}", options=options)
            for patient in range(self.config.patients)
            for section in range(self.config.sections_per_patient)
        )

    def remarks(self) -> tuple[str, ...]:
        """Return no remarks."""
        return ()

    def genes(self, name: str) -> Genes:
        """Return the genes, the same in every section."""
        self._indices(name)
        return Genes(symbols=gene_symbols(self.config.genes))

    def read(self, name: str) -> Section:
        """Return section `name`; its picture, where it has one, is drawn when it is opened. Raises InputError when
        there is no such section.
        """
        patient, section = self._indices(name)
        config = self.config
        layout = draw_layout(config.seed, patient, section, config.spots_per_section)
        draw = partial(draw_image, config.seed, patient, section, config.spots_per_section, config.microns_per_pixel)
        return Section(
            name=name,
            patient=f"P{patient + 1}",
            spots=tuple(f"{row}x{col}" for row, col in zip(layout.array_row, layout.array_col, strict=True)),
            genes=self.genes(name),
            counts=draw_counts(config.seed, patient, section, layout, config.genes),
            xy_px=layout.xy_um / config.microns_per_pixel,
            microns_per_pixel=config.microns_per_pixel,
            array_row=layout.array_row,
            array_col=layout.array_col,
            labels=class_names(layout),
            image=SectionImage(place=f"{self.place}, section {name}", load=draw) if config.images else None,
        )

    def _indices(self, name: str) -> tuple[int, int]:
        match = _NAME.fullmatch(name)
        if match:
            patient, section = int(match[1]) - 1, int(match[2]) - 1
            if patient < self.config.patients and section < self.config.sections_per_patient:
                return patient, section
        last = f"P{self.config.patients}S{self.config.sections_per_patient}"
        raise InputError(Problem(self.place, f"it has no section {name!r}", f"its sections are P1S1 to {last}"))
