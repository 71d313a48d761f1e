"""The table of bad inputs: kind, name, mutation, and what must be said of it."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from tests.support.careless import (
    COUNTS,
    HE,
    LABELS,
    SPOTS,
    Case,
    apart,
    at,
    attr,
    bad_png,
    beside,
    both,
    bytes_at,
    cut,
    data_frame,
    declared,
    dense,
    edit,
    external,
    garbled,
    good_h5ad,
    group_at,
    h5,
    her2st,
    her2st_special,
    link,
    outside,
    png_declaring,
    put,
    raw,
    saved,
    scale,
    special,
    table,
    tiff_declaring,
)  # fmt: skip
from tests.support.tiny import picture, picture_path

GEOJSON = json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}] * 50}).encode()
HIRES = "uns/spatial/bad/images/hires"
MICRONS = "metadata/microns_per_pixel"
SCALEF = "scalefactors/tissue_hires_scalef"


def rows(*changes: tuple) -> list[Case]:
    return [Case(*change[:4], **(change[4] if len(change) > 4 else {})) for change in changes]


DEADLY, READ = {"deadly": True}, {"read": True}

MATRIX = rows(
    ("matrix", "indptr falls", edit("X/indptr", at(5, 90)), "indptr does not rise from 0 to the number of", DEADLY),
    (
        "matrix",
        "indptr ends beyond the data",
        edit("X/indptr", at(-1, 2**30)),
        "indptr does not rise from 0 to the number of",
        DEADLY,
    ),
    (
        "matrix",
        "indptr ends before the data",
        edit("X/indptr", at(-1, 3)),
        "indptr does not rise from 0 to the number of",
        DEADLY,
    ),
    (
        "matrix",
        "indptr is negative",
        edit("X/indptr", at(0, -7)),
        "indptr does not rise from 0 to the number of",
        DEADLY,
    ),
    ("matrix", "indptr too short", edit("X/indptr", lambda a: a[:-3]), "indptr has 22 entries, not 25", DEADLY),
    (
        "matrix",
        "indptr too long",
        edit("X/indptr", lambda a: np.append(a, a[-1])),
        "indptr has 26 entries, not 25",
        DEADLY,
    ),
    ("matrix", "indptr is nan", edit("X/indptr", at(3, np.nan)), "indptr is no list of whole numbers", DEADLY),
    (
        "matrix",
        "indptr wraps around",
        edit("X/indptr", lambda a: at(4, 2**64 - 1)(a.astype(np.uint64))),
        "indptr does not rise from 0 to the number of",
        DEADLY,
    ),
    ("matrix", "indptr is text", put("X/indptr", ["a"] * 25), "indptr is no list of whole numbers", DEADLY),
    ("matrix", "indptr is a group", group_at("X/indptr"), "indptr is no list of whole numbers", DEADLY),
    ("matrix", "indptr is missing", put("X/indptr", None), "is no matrix: it has no indptr", DEADLY),
    ("matrix", "an index out of range", edit("X/indices", at(7, 4)), "indices leave the range from 0 to 3", DEADLY),
    ("matrix", "a negative index", edit("X/indices", at(7, -1)), "indices leave the range from 0 to 3", DEADLY),
    (
        "matrix",
        "a huge index",
        edit("X/indices", lambda a: at(7, 2**62)(a.astype(np.int64))),
        "indices leave the range from 0 to 3",
        DEADLY,
    ),
    ("matrix", "indices of nan", edit("X/indices", at(7, np.nan)), "indices is no list of whole numbers", DEADLY),
    ("matrix", "indices are fractions", edit("X/indices", at(7, 0.5)), "indices is no list of whole numbers", DEADLY),
    (
        "matrix",
        "data shorter than indices",
        edit("X/data", lambda a: a[:-5]),
        "data and indices differ in length (71, 76)",
        DEADLY,
    ),
    (
        "matrix",
        "data longer than indices",
        edit("X/data", lambda a: np.append(a, a)),
        "data and indices differ in length (152, 76)",
        DEADLY,
    ),
    ("matrix", "data are two-dimensional", edit("X/data", lambda a: a[:, None]), "data is no list of numbers", DEADLY),
    ("matrix", "data are text", edit("X/data", lambda a: a.astype("S5")), "data is no list of numbers", DEADLY),
    ("matrix", "data are complex", edit("X/data", lambda a: a * 1j), "data is no list of numbers", DEADLY),
    (
        "matrix",
        "data are records",
        edit("X/data", lambda a: a.astype([("a", "i4")])),
        "data is no list of numbers",
        DEADLY,
    ),
    ("matrix", "data are a group", group_at("X/data"), "data is no list of numbers", DEADLY),
    ("matrix", "data are missing", put("X/data", None), "is no matrix: it has no data", DEADLY),
    ("matrix", "data are empty", edit("X/data", lambda a: a[:0]), "data and indices differ in length (0, 76)", DEADLY),
    (
        "matrix",
        "data declare terabytes",
        both(
            declared("X/data", (2**40,), "i4"),
            h5(lambda file: _declare_more(file)),
        ),
        "indptr gives a spot more than 4 values",
        DEADLY,
    ),
    (
        "matrix",
        "the shape is too large",
        attr("X", "shape", [10**9, 10**9]),
        "says its shape is [1000000000, 1000000000],",
        DEADLY,
    ),
    (
        "matrix",
        "the shape is turned",
        attr("X", "shape", [4, 24]),
        "says its shape is [4, 24], obs and var say",
        DEADLY,
    ),
    (
        "matrix",
        "the shape is too small",
        attr("X", "shape", [24, 3]),
        "says its shape is [24, 3], obs and var say",
        DEADLY,
    ),
    (
        "matrix",
        "the shape is text",
        attr("X", "shape", "24 x 4"),
        "says its shape is ['24 x 4'], obs and var say",
        DEADLY,
    ),
    (
        "matrix",
        "the shape is negative",
        attr("X", "shape", [-24, 4]),
        "says its shape is [-24, 4], obs and var say",
        DEADLY,
    ),
    (
        "matrix",
        "the shape has three sides",
        attr("X", "shape", [24, 4, 1]),
        "says its shape is [24, 4, 1], obs and var say",
        DEADLY,
    ),
    (
        "matrix",
        "the shape is missing",
        attr("X", "shape", None),
        "says its shape is [], obs and var say (24, 4)",
        DEADLY,
    ),
    (
        "matrix",
        "the encoding is unknown",
        attr("X", "encoding-type", "coo_matrix"),
        "is stored as coo_matrix, not as csr or csc",
        DEADLY,
    ),
    (
        "matrix",
        "called csc and is csr",
        attr("X", "encoding-type", "csc_matrix"),
        "indptr has 25 entries, not 5",
        DEADLY,
    ),
    ("matrix", "an empty group", group_at("X"), "is no matrix: it has no data", DEADLY),
    ("matrix", "one number", put("X", 5), "has the shape (), obs and var (24, 4)", DEADLY),
    (
        "matrix",
        "dense in three dimensions",
        dense(np.zeros((24, 4, 2))),
        "has the shape (24, 4, 2), obs and var (24, 4)",
        DEADLY,
    ),
    (
        "matrix",
        "dense with a row too few",
        dense(np.ones((23, 4))),
        "has the shape (23, 4), obs and var (24, 4)",
        DEADLY,
    ),
    (
        "matrix",
        "dense with a gene too many",
        dense(np.ones((24, 5))),
        "has the shape (24, 5), obs and var (24, 4)",
        DEADLY,
    ),
    ("matrix", "dense, turned", dense(np.ones((4, 24))), "has the shape (4, 24), obs and var (24, 4)", DEADLY),
    (
        "matrix",
        "dense and declares terabytes",
        declared("X", (10**7, 10**6)),
        "has the shape (10000000, 1000000), obs and",
        DEADLY,
    ),
    ("matrix", "dense of text", dense(np.full((24, 4), b"1")), "holds |S1, not numbers", DEADLY),
    ("matrix", "dense of complex numbers", dense(np.ones((24, 4)) * 1j), "holds complex128, not numbers", DEADLY),
    (
        "matrix",
        "a row of more values than genes",
        edit("X/indptr", lambda a: np.append(a[:-1] * 0, a[-1:])),
        "indptr gives a spot more than 4 values",
        DEADLY,
    ),
)


def _declare_more(file) -> None:
    del file["X/indices"]
    file["X"].create_dataset("indices", shape=(2**40,), chunks=(100,), dtype="i4")
    indptr = file["X/indptr"][()].astype(np.int64)
    indptr[-1] = 2**40
    del file["X/indptr"]
    file["X/indptr"] = indptr


COUNT_VALUES = rows(
    ("counts", "negative", edit("X/data", at(0, -1)), "has 1 negative count, the least -1"),
    ("counts", "fractions", edit("X/data", at(0, 0.5)), "has 1 fractional count, such as 0.5"),
    ("counts", "nan", edit("X/data", at(0, np.nan)), "has counts that are not finite numbers"),
    ("counts", "infinite", edit("X/data", at(0, np.inf)), "has counts that are not finite numbers"),
    ("counts", "huge", edit("X/data", lambda a: at(0, 2**40)(a.astype(np.int64))), "has a count of 1099511627776"),
    ("counts", "huge floats", edit("X/data", lambda a: at(0, 1e300)(a.astype(np.float64))), "has a count of 1e+300"),
    ("counts", "all zero", dense(np.zeros((24, 4))), "no count above 0"),
    ("counts", "booleans", edit("X/data", lambda a: a > 0), "X holds booleans: true and false are read as", READ),
    ("counts", "logarithms", dense(np.log1p(np.arange(96).reshape(24, 4))), "has 95 fractional counts, such as"),
    ("counts", "no X", put("X", None), "the file has no matrix of counts", READ),
    ("counts", "no var", put("var", None), "is missing: X has no gene names"),
    ("counts", "no gene", data_frame(lambda data: data[:, :0].copy()), "names no gene"),
    ("counts", "a sum beyond 32 bits", dense(np.full((24, 4), 2**32 - 1)), "", READ),
)

TABLES = rows(
    ("obs", "missing", put("obs", None), "cannot be read"),
    ("obs", "an array", put("obs", np.zeros(24)), "cannot be read"),
    ("obs", "an empty group", group_at("obs"), ""),
    ("obs", "no index", attr("obs", "_index", None), "cannot be read"),
    ("obs", "an index that is not there", attr("obs", "_index", "nowhere"), "cannot be read"),
    ("obs", "index too long", edit("obs/_index", lambda a: np.append(a, [b"x", b"y"])), "cannot be read"),
    ("obs", "index too short", edit("obs/_index", lambda a: a[:-3]), "cannot be read"),
    ("obs", "index of numbers", edit("obs/_index", lambda a: np.arange(24)), "cannot be read"),
    ("obs", "index of numbers twice", edit("obs/_index", lambda a: np.zeros(24)), "cannot be read"),
    ("obs", "index declares terabytes", declared("obs/_index", (10**12,), "text"), "GiB of memory are free", DEADLY),
    ("obs", "a spot named twice", edit("obs/_index", at(3, b"bad_2x1")), "names 1 spot more than once: bad_2x1"),
    ("obs", "nameless spots", edit("obs/_index", at(slice(2, 4), b"")), "has 2 spots without a name"),
    (
        "obs",
        "a spot too many",
        both(
            *(
                edit(f"obs/{column}", lambda a: np.append(a, a[-1:] * 2 if a.dtype.kind == "O" else a[-1:]))
                for column in ("_index", "patient/codes", "label/codes")
            )
        ),
        "obs and var say (25, 4)",
    ),
    ("obs", "no spot", data_frame(lambda data: data[:0].copy()), "has no spot"),
    ("obs", "a column too long", edit("obs/patient/codes", lambda a: np.append(a, a)), "cannot be read"),
    ("obs", "codes out of range", edit("obs/patient/codes", at(3, 9)), "cannot be read"),
    ("obs", "codes below -1", edit("obs/patient/codes", at(3, -9)), "cannot be read"),
    (
        "obs",
        "codes all -1",
        edit("obs/patient/codes", lambda a: a * 0 - 1),
        "has spots without a value in the obs columns",
    ),
    ("obs", "an unknown encoding", attr("obs/patient", "encoding-type", "hologram"), "cannot be read"),
    ("obs", "a column of 2 dimensions", put("obs/patient", np.zeros((24, 2))), "cannot be read"),
    (
        "obs",
        "column-order names what is not there",
        attr("obs", "column-order", ["patient", "spirit"]),
        "cannot be read",
    ),
    ("obs", "no patient", put("obs/patient", None), "cannot be read"),
    (
        "obs",
        "no patient, but a donor",
        data_frame(lambda d: d.obs.rename(columns={"patient": "donor_id"}, inplace=True)),
        "donor_id",
    ),
    (
        "obs",
        "patients of nan",
        data_frame(lambda d: d.obs.__setitem__("patient", np.nan)),
        "has spots without a value in the obs columns",
    ),
    (
        "obs",
        "blank patients",
        data_frame(lambda d: d.obs.__setitem__("patient", " ")),
        "has spots without a value in the obs columns",
    ),
    (
        "obs",
        "two patients",
        data_frame(lambda d: d.obs.__setitem__("patient", ["x"] + ["bad"] * 23)),
        "holds spots of the patients bad, x and does",
    ),
    (
        "obs",
        "two slides in a section",
        data_frame(
            lambda d: d.obs.__setitem__("library_id", ["x"] + ["y"] * 23) or d.obs.__setitem__("section", "one")
        ),
        "section one has the library_ids x, y",
    ),
    (
        "obs",
        "in_tissue of words",
        data_frame(lambda d: d.obs.__setitem__("in_tissue", "perhaps")),
        "holds perhaps, where 1 (on tissue) or 0",
    ),
    (
        "obs",
        "in_tissue of 7",
        data_frame(lambda d: d.obs.__setitem__("in_tissue", 7)),
        "holds 7, where 1 (on tissue) or 0 (off tissue)",
    ),
    (
        "obs",
        "in_tissue all 0",
        data_frame(lambda d: d.obs.__setitem__("in_tissue", 0)),
        "has no spot left (24 spots: in_tissue is 0)",
    ),
    (
        "obs",
        "array positions of text",
        data_frame(lambda d: _positions(d, "north")),
        "array_row and array_col hold no array positions",
        READ,
    ),
    (
        "obs",
        "array positions of nan",
        data_frame(lambda d: _positions(d, np.nan)),
        "array_row and array_col hold no array positions",
        READ,
    ),
    (
        "obs",
        "array positions beyond 32 bits",
        data_frame(lambda d: _positions(d, 1e300)),
        "array_row and array_col hold no array positions",
        READ,
    ),
    ("obs", "numbers as labels", data_frame(lambda d: d.obs.__setitem__("label", np.arange(24.0))), "", READ),
    (
        "obs",
        "a link into nothing",
        link("obs", h5py.SoftLink("/nowhere")),
        "obs is a link to /nowhere, which does not exist",
    ),
    ("obs", "a link to itself", link("obs", h5py.SoftLink("/obs")), "obs is a link to /obs, which does not exist"),
    ("obs", "a link to the root", link("obs", h5py.SoftLink("/")), "cannot be read"),
    ("obs", "a link to another file", external("obs", "/obs"), "obs is a link to another file,", DEADLY),
    ("var", "an array", put("var", np.zeros(4)), "cannot be read"),
    (
        "var",
        "longer than X",
        edit("var/_index", lambda a: np.append(a, [b"x"])),
        "says its shape is [24, 4], obs and var say",
    ),
    ("var", "declares terabytes", declared("var/_index", (10**12,), "text"), "GiB of memory are free", DEADLY),
    ("var", "a gene named twice", edit("var/_index", at(1, b"ACTB")), "names 1 gene more than once: ACTB"),
    ("var", "nameless genes", edit("var/_index", at(slice(0, 2), b"")), "has 2 genes without a name"),
    ("X", "a link into nothing", link("X", h5py.SoftLink("/nowhere")), "X is a link to /nowhere, which does not exist"),
    ("X", "a link to itself", link("X", h5py.SoftLink("/X")), "X is a link to /X, which does not exist"),
    ("X", "a link to another file", external("X", "/X"), "X is a link to another file,", DEADLY),
    ("X", "data in another file", outside("X/data"), "the values of X/data are stored in other files", DEADLY),
    ("X", "data in a link to another file", external("X/data", "/data"), "X/data is a link to another file,", DEADLY),
    (
        "uns",
        "a link to another file",
        external("uns/spatial", "/uns"),
        "uns/spatial is a link to another file,",
        DEADLY,
    ),
    (
        "uns",
        "a link into nothing",
        link("uns/spatial", h5py.SoftLink("/nowhere")),
        "uns/spatial is a link to /nowhere, which",
    ),
)


def _positions(data, value) -> None:
    data.obs["array_row"] = value
    data.obs["array_col"] = value


COORDINATES = rows(
    ("coordinates", "missing", put("obsm/spatial", None), "has no obsm["),
    ("coordinates", "obsm is an array", put("obsm", np.zeros(3)), "has no obsm["),
    ("coordinates", "text", put("obsm/spatial", np.full((24, 2), b"here")), "holds |S4, not numbers"),
    ("coordinates", "complex", edit("obsm/spatial", lambda a: a * 1j), "holds complex128, not numbers"),
    ("coordinates", "one column", edit("obsm/spatial", lambda a: a[:, :1]), "has the shape (24, 1), expected (24, 2)"),
    (
        "coordinates",
        "three columns",
        edit("obsm/spatial", lambda a: np.hstack([a, a[:, :1]])),
        "obsm/spatial has 3 columns: the first two are",
        READ,
    ),
    ("coordinates", "a row too few", edit("obsm/spatial", lambda a: a[1:]), "has the shape (23, 2), expected (24, 2)"),
    (
        "coordinates",
        "a row too many",
        edit("obsm/spatial", lambda a: np.vstack([a, a[:1]])),
        "has the shape (25, 2), expected (24, 2)",
    ),
    ("coordinates", "turned", edit("obsm/spatial", lambda a: a.T), "has the shape (2, 24), expected (24, 2)"),
    (
        "coordinates",
        "three dimensions",
        edit("obsm/spatial", lambda a: a[..., None]),
        "has the shape (24, 2, 1), expected (24, 2)",
    ),
    ("coordinates", "a group", group_at("obsm/spatial"), ""),
    ("coordinates", "declare terabytes", declared("obsm/spatial", (10**12, 2)), "GiB of memory are free", DEADLY),
    ("coordinates", "all nan", edit("obsm/spatial", lambda a: a * np.nan), "has no spot left (24 spots: no pixel"),
    ("coordinates", "all infinite", edit("obsm/spatial", lambda a: a * np.inf), "has no spot left (24 spots: no pixel"),
    ("coordinates", "one infinite", edit("obsm/spatial", at((3, 0), np.inf)), "no pixel coordinates", READ),
    (
        "coordinates",
        "all the same",
        edit("obsm/spatial", lambda a: a * 0 + 50),
        "puts all 24 spots of section bad into one",
    ),
    ("coordinates", "negative", edit("obsm/spatial", lambda a: -a), "lie outside the picture: x from -100 to -20"),
    ("coordinates", "huge", edit("obsm/spatial", lambda a: a * 1e300), "lie outside the picture: x from 2e+301 to"),
    ("coordinates", "tiny", edit("obsm/spatial", lambda a: a * 1e-300), "puts all 24 spots of section bad into one"),
    ("coordinates", "booleans", edit("obsm/spatial", lambda a: a > 100), "holds bool, not numbers"),
)

WRONG_NUMBERS = {
    "text": "wide", "a list": [0.5, 0.6], "empty": [0.5][:0], "0": 0.0, "-1": -1.0, "nan": np.nan, "inf": np.inf,
    "1e-300": 1e-300, "1e300": 1e300, "true": True, "a square": np.ones((2, 2)), "complex": 1j,
}  # fmt: skip
NUMBERS = [
    *rows(
        *(
            ("scale factor", name, scale(SCALEF, value), "no usable scalefactors/tissue_hires_scalef")
            for name, value in WRONG_NUMBERS.items()
        )
    ),
    *rows(
        *(
            ("micrometres", name, scale(MICRONS, value), "metadata/microns_per_pixel is")
            for name, value in WRONG_NUMBERS.items()
        )
    ),
    *rows(
        *(
            ("spot diameter", name, scale("scalefactors/spot_diameter_fullres", value), "", READ)
            for name, value in WRONG_NUMBERS.items()
        )
    ),
    *rows(
        ("scale factor", "a group", group_at(f"uns/spatial/bad/{SCALEF}"), "there is no usable"),
        ("scale factor", "missing", scale(SCALEF, None), "there is no usable"),
        ("scale factor", "scalefactors is text", scale("scalefactors", "none"), "there is no usable"),
        ("micrometres", "a group", group_at(f"uns/spatial/bad/{MICRONS}"), "the size of a pixel is unknown:"),
        ("micrometres", "metadata is text", scale("metadata", "none"), "the size of a pixel is unknown:"),
        (
            "micrometres",
            "at an end of what is believed",
            scale(MICRONS, 9000.0),
            "a patch of 160 um is 0.00889 pixels of this",
        ),
        (
            "scale factor",
            "at an end of what is believed",
            scale(SCALEF, 9000.0),
            "lie outside the picture: x from 360000 to",
        ),
    ),
]

STORED = rows(
    (
        "stored picture",
        "one dimension",
        put(HIRES, np.zeros(100, np.uint8)),
        "is an array of shape (100,), not height x",
    ),
    (
        "stored picture",
        "two channels",
        put(HIRES, np.zeros((130, 120, 2), np.uint8)),
        "is an array of shape (130, 120, 2), not",
    ),
    (
        "stored picture",
        "no pixel",
        put(HIRES, np.zeros((0, 0, 3), np.uint8)),
        "is an array of shape (0, 0, 3), not height x",
    ),
    (
        "stored picture",
        "one pixel",
        put(HIRES, np.zeros((1, 1, 3), np.uint8)),
        "the picture is black: its largest value is 0 of",
    ),
    ("stored picture", "a number", put(HIRES, 3), "is an array of shape (), not height x width x"),
    ("stored picture", "text", put(HIRES, "tissue.png"), "is an array of shape (), not height x width x"),
    ("stored picture", "a group", group_at(HIRES), ""),
    ("stored picture", "nan", put(HIRES, np.full((130, 120, 3), np.nan)), "is a picture of float64 with 46,800 values"),
    (
        "stored picture",
        "negative",
        edit(HIRES, lambda a: a.astype(np.int16) - 200),
        "is a picture of int16 with values from -154",
    ),
    (
        "stored picture",
        "huge numbers",
        edit(HIRES, lambda a: a.astype(np.int64) << 40),
        "is a picture of int64 with values from",
    ),
    ("stored picture", "complex", edit(HIRES, lambda a: a * 1j), "is a picture of complex128"),
    ("stored picture", "black", edit(HIRES, lambda a: a * 0), "the picture is black: its largest value is 0 of"),
    ("stored picture", "white", edit(HIRES, lambda a: a * 0 + 255), "the picture is white: it shows nothing, or is"),
    ("stored picture", "booleans", edit(HIRES, lambda a: a > 100), "show no tissue", READ),
    ("stored picture", "records", edit(HIRES, lambda a: a.astype([("r", "u1")])), "is a picture of void8"),
    (
        "stored picture",
        "declares terabytes",
        declared(HIRES, (4_000_000, 4_000_000, 3), "u1"),
        "the picture declares 4,000,000 x 4,000,000",
        DEADLY,
    ),
    (
        "stored picture",
        "declares terabytes of text",
        declared(HIRES, (10**12,), "text"),
        "GiB of memory are free",
        DEADLY,
    ),
    ("stored picture", "images is an array", put("uns/spatial/bad/images", np.zeros(3)), "images is no group", READ),
    (
        "stored picture",
        "the library is an array",
        put("uns/spatial/bad", np.zeros(3)),
        "the size of a pixel is unknown",
    ),
    (
        "stored picture",
        "of a third of the section",
        edit(HIRES, lambda a: a[:30, :30]),
        "lie outside the picture: x from 20 to 100 and",
    ),
    ("stored picture", "uns is an array", put("uns", np.zeros(3)), "the size of a pixel is unknown"),
)

BESIDE = rows(
    ("picture", "a FIFO", beside(special("bad.png", "fifo")), "the picture is a device, pipe or socket", DEADLY),
    ("picture", "a socket", beside(special("bad.png", "socket")), "the picture is a device, pipe or socket"),
    ("picture", "a folder", beside(special("bad.png", "folder")), "the picture is a folder"),
    ("picture", "a device", beside(special("bad.png", "/dev/zero")), "the picture is a device, pipe or socket", DEADLY),
    (
        "picture",
        "a terminal",
        beside(special("bad.png", "/dev/tty")),
        "the picture is a device, pipe or socket",
        DEADLY,
    ),
    (
        "picture",
        "a link into nothing",
        beside(special("bad.png", "link")),
        "the picture is missing: the link leads nowhere",
    ),
    ("picture", "no byte", bad_png(b""), "cannot be decoded"),
    ("picture", "text", bad_png(b"not yet scanned"), "cannot be decoded"),
    ("picture", "html", bad_png(b"<!DOCTYPE html><html>404</html>"), "cannot be decoded"),
    ("picture", "svg", bad_png(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "cannot be decoded"),
    ("picture", "PostScript", bad_png(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cannot be decoded"),
    ("picture", "half a PNG", bad_png(lambda: saved(picture(), "PNG")[:9000]), "cannot be decoded"),
    ("picture", "half a JPEG", bad_png(lambda: saved(picture(), "JPEG")[:3000]), "cannot be decoded"),
    ("picture", "a garbled PNG", bad_png(lambda: garbled(saved(picture(), "PNG"))), "cannot be decoded"),
    (
        "picture",
        "a garbled TIFF",
        bad_png(lambda: garbled(saved(picture(), "TIFF", compression="tiff_lzw"))),
        "cannot be decoded",
    ),
    (
        "picture",
        "a PNG that declares petabytes",
        bad_png(png_declaring(10**9, 10**9)),
        "the picture declares 1,000,000,000 x",
        DEADLY,
    ),
    (
        "picture",
        "a PNG that declares gigabytes",
        bad_png(png_declaring(10**6, 10**6)),
        "the picture declares 1,000,000 x 1,000,000",
        DEADLY,
    ),
    ("picture", "a PNG without pixels", bad_png(png_declaring(0, 0)), "cannot be decoded"),
    (
        "picture",
        "a TIFF that declares petabytes",
        bad_png(tiff_declaring(2**31 - 1, 2**31 - 1)),
        "the picture declares 2,147,483,647 x",
        DEADLY,
    ),
    ("picture", "a TIFF whose pages go round", bad_png(tiff_declaring(50, 50, 8)), "cannot be decoded", DEADLY),
    (
        "picture",
        "two pages of a size",
        bad_png(lambda: saved(picture(), "TIFF", save_all=True, append_images=[picture(2)])),
        "holds 2 pages or frames",
    ),
    (
        "picture",
        "one pixel",
        bad_png(lambda: saved(picture(size=(1, 1)), "PNG")),
        "the picture is blank: every pixel has the",
    ),
    (
        "picture",
        "a mask",
        bad_png(lambda: saved(Image.fromarray((np.asarray(picture()) > 100).astype(np.uint8)), "PNG")),
        "is a picture with only the values 0 and 1",
    ),
    (
        "picture",
        "of another section",
        bad_png(lambda: saved(picture(size=(60, 60)), "PNG")),
        "lie outside the picture: x from 40 to 200 and",
    ),
    (
        "named picture",
        "a device",
        scale("metadata/source_image_path", "/dev/zero"),
        "source_image_path names '/dev/zero', which is",
        READ | DEADLY,
    ),
    (
        "named picture",
        "nowhere",
        scale("metadata/source_image_path", "nowhere.tif"),
        "source_image_path names 'nowhere.tif', which",
        READ,
    ),
    (
        "named picture",
        "NUL",
        scale("metadata/source_image_path", np.bytes_(b"a\0b.tif")),
        "source_image_path names 'a",
        READ,
    ),
    (
        "named picture",
        "a number",
        scale("metadata/source_image_path", 7),
        "source_image_path names '7', which is",
        READ,
    ),
    (
        "named picture",
        "a list",
        scale("metadata/source_image_path", ["a.tif", "b.tif"]),
        "source_image_path names 'not a single number",
        READ,
    ),
    (
        "named picture",
        "empty",
        scale("metadata/source_image_path", ""),
        "source_image_path names '', which is missing",
        READ,
    ),
    (
        "named picture",
        "a folder",
        scale("metadata/source_image_path", "."),
        "source_image_path names '.', which is",
        READ,
    ),
    ("named picture", "very long", scale("metadata/source_image_path", "x" * 5000), "source_image_path names", READ),
)

FILES = rows(
    ("file", "no byte", bytes_at("bad.h5ad", b""), "cannot be read as HDF5"),
    ("file", "text", bytes_at("bad.h5ad", b"cells,genes\n"), "cannot be read as HDF5"),
    ("file", "gzipped", bytes_at("bad.h5ad", lambda: gzip.compress(good_h5ad())), "cannot be read as HDF5"),
    ("file", "half of it", cut(0.5), "cannot be read as HDF5", DEADLY),
    ("file", "nine tenths of it", cut(0.9), "cannot be read as HDF5", DEADLY),
    ("file", "all but a byte", cut(0.9999), "cannot be read as HDF5", DEADLY),
    ("file", "garbled", bytes_at("bad.h5ad", lambda: garbled(good_h5ad(), 0.2, 0.6)), "cannot be read", DEADLY),
    ("file", "a FIFO", special("bad.h5ad", "fifo"), "is a device, pipe or socket", DEADLY),
    ("file", "a socket", special("bad.h5ad", "socket"), "is a device, pipe or socket"),
    ("file", "a folder", special("bad.h5ad", "folder"), "is a folder"),
    ("file", "a device", special("bad.h5ad", "/dev/zero"), "is a device, pipe or socket", DEADLY),
    ("file", "a link into nothing", special("bad.h5ad", "link"), "is missing: the link leads nowhere"),
    ("file", "empty HDF5", h5(lambda file: [file.__delitem__(key) for key in list(file)]), "cannot be read"),
    (
        "file",
        "of Space Ranger",
        h5(lambda file: [file.move(key, f"matrix/{key}") for key in list(file)]),
        "cannot be read",
    ),
    (
        "file",
        "of macOS",
        both(
            lambda folder: bytes_at("._bad.h5ad", b"\0\x05\x16\x07")(folder),
            bytes_at("bad.h5ad", lambda: good_h5ad()),
        ),
        "1 file with a leading dot left out",
        READ,
    ),
)

HER2ST = rows(
    *(
        (f"her2st {what}", how, her2st_special(name, kind), says, {"deadly": kind == "fifo"})
        for what, name in (("counts", COUNTS), ("spots", SPOTS), ("labels", LABELS), ("picture", HE))
        for how, kind in (("a FIFO", "fifo"), ("a folder", "folder"), ("a link into nothing", "link"))
        for says in ({"fifo": "is a device, pipe", "link": "the link leads nowhere"}.get(kind, "is a folder"),)
    ),
    *(
        (f"her2st {what}", how, raw(name, content), says)
        for what, name, says in (
            ("counts", COUNTS, "cannot be read"),
            ("spots", SPOTS, "cannot be read"),
            ("labels", LABELS, "cannot be read"),
            ("picture", HE, "cannot be decoded"),
        )
        for how, content in (("no byte", b""), ("binary", bytes(range(256)) * 20), ("HDF5", b"\x89HDF\r\n\x1a\n" * 9))
    ),
    ("her2st counts", "no gzip", raw(COUNTS, b"to do"), "cannot be read"),
    ("her2st spots", "text", raw(SPOTS, b"to do"), "lacks the columns x, y, pixel_x, pixel_y; it has to do"),
    ("her2st labels", "text", raw(LABELS, b"to do"), "lacks the columns x, y, label; it has to do"),
    (
        "her2st counts",
        "text among them",
        table(COUNTS, lambda t: t.astype(object).mask(t > 4, "many")),
        "counts of 2 genes are not numbers, such as",
    ),
    (
        "her2st counts",
        "nan among them",
        table(COUNTS, lambda t: t.mask(t > 4)),
        "has counts that are not finite numbers",
    ),
    ("her2st counts", "negative", table(COUNTS, lambda t: t - 3), "has 76 negative counts, the least -3"),
    ("her2st counts", "huge", table(COUNTS, lambda t: t + 2**40), "has a count of 1099511627783"),
    (
        "her2st counts",
        "beyond 64 bits",
        table(COUNTS, lambda t: t.astype(str) + "0" * 30),
        "counts of 4 genes are not numbers, such as",
    ),
    ("her2st counts", "turned", table(COUNTS, lambda t: t.T), "none of its 4 spots is in the spot file, for example"),
    (
        "her2st counts",
        "a spot twice",
        table(COUNTS, lambda t: t.iloc[[0, 0, 1, 2]]),
        "names 1 spot more than once: 1x1",
    ),
    (
        "her2st counts",
        "a gene twice",
        table(COUNTS, lambda t: t[["ACTB", "ACTB", "CD3E"]]),
        "names 1 gene more than once: ACTB",
    ),
    (
        "her2st counts",
        "half",
        her2st(lambda f: (f / COUNTS).write_bytes((f / COUNTS).read_bytes()[:100])),
        "cannot be read",
    ),
    (
        "her2st spots",
        "words",
        table(SPOTS, lambda t: t.assign(pixel_x="left")),
        "holds coordinates that are not numbers",
    ),
    ("her2st spots", "nan", table(SPOTS, lambda t: t.assign(pixel_x=np.nan)), "holds coordinates that are not numbers"),
    ("her2st spots", "infinite", table(SPOTS, lambda t: t.assign(x=np.inf)), "holds coordinates that are not numbers"),
    ("her2st spots", "huge", table(SPOTS, lambda t: t.assign(x=t.x * 1e300)), "gives 1e+300 as an array position"),
    (
        "her2st spots",
        "all the same",
        table(SPOTS, lambda t: t.assign(pixel_x=5, pixel_y=5)),
        "the size of a pixel is unknown",
    ),
    (
        "her2st spots",
        "one place twice",
        table(SPOTS, lambda t: pd.concat([t, t.iloc[:2]])),
        "names 2 spots more than once: 1x1, 2x1",
    ),
    ("her2st spots", "no row", table(SPOTS, lambda t: t.iloc[:0]), "names no spot"),
    ("her2st spots", "three rows", table(SPOTS, lambda t: t.iloc[:3]), "the size of a pixel is unknown"),
    (
        "her2st spots",
        "no pixel_x",
        table(SPOTS, lambda t: t.drop(columns="pixel_x")),
        "lacks the columns pixel_x; it has x, y,",
    ),
    ("her2st spots", "missing", her2st(lambda f: (f / SPOTS).unlink()), "have counts but no coordinates"),
    (
        "her2st labels",
        "no column label",
        table(LABELS, lambda t: t.drop(columns="label")),
        "lacks the columns label; it has Row.names, x,",
    ),
    (
        "her2st labels",
        "of other spots",
        table(LABELS, lambda t: t.assign(x=t.x + 100)),
        "none of its 25 labels matches a spot of section",
    ),
    ("her2st labels", "infinite", table(LABELS, lambda t: t.assign(x=np.inf)), "gives inf as an array position"),
    (
        "her2st labels",
        "one spot twice",
        table(LABELS, lambda t: pd.concat([t, t.iloc[:2]])),
        "names 2 spots more than once: 1x1, 2x1",
    ),
    (
        "her2st picture",
        "two pictures",
        her2st(lambda f: picture().save(picture_path(f, "B1").with_name("b.jpg"))),
        "should hold exactly one picture of section",
    ),
    (
        "her2st picture",
        "half",
        her2st(lambda f: (f / HE).write_bytes((f / HE).read_bytes()[:2500])),
        "cannot be decoded",
    ),
)

CASES = [*MATRIX, *COUNT_VALUES, *TABLES, *COORDINATES, *NUMBERS, *STORED, *BESIDE, *FILES, *HER2ST]


if __name__ == "__main__":
    apart([case for case in CASES if case.deadly], Path(sys.argv[1]))
