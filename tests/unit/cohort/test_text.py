"""Text from files has one spelling, and tables are read in any usual dialect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stray.cohort.text import clean, clean_column, look_alikes, patient_warnings, read_table
from stray.errors import InputError


@pytest.mark.parametrize(
    "value", ["", "  ", "NA", "n/a", "NaN", "nan", "None", "<NA>", "null", "\u00a0", None, np.nan, pd.NA]
)
def test_missing_values_have_many_spellings(value: object) -> None:
    assert clean(value) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        (1.5, "1.5"),
        ("P2 ", "P2"),
        ("\u00a0P2\u200b", "P2"),
        ("\ufeffP2", "P2"),
        ("invasive  cancer", "invasive cancer"),
        (b"P2", "P2"),
        (np.int64(7), "7"),
        (True, "True"),
        ("007", "007"),
        ("Nancy", "Nancy"),
        ("e\u0301", "\u00e9"),
    ],
)
def test_a_value_has_one_spelling(value: object, text: str) -> None:
    assert clean(value) == text


def test_a_column_is_cleaned_whatever_its_type() -> None:
    assert clean_column(pd.Series([1.0, np.nan, 2.0])).tolist() == ["1", None, "2"]
    assert clean_column(pd.Series(["a ", None, "NA"], dtype="category")).tolist() == ["a", None, None]
    assert clean_column(pd.Series([1, None], dtype="Int64")).tolist() == ["1", None]


def test_names_that_look_alike_are_found() -> None:
    assert look_alikes(["P1", "p1", "P-1", "P2", "P 10", "P01"]) == [("P-1", "P01", "P1", "p1")]
    (warning,) = patient_warnings(["HN-1", "HN_1", "HN2"])
    assert "'HN-1' and 'HN_1'" in warning


ROWS = [{"section": "A1", "spot": "1x1", "label": "a, b"}, {"section": "A1", "spot": "2x1", "label": None}]


@pytest.mark.parametrize(
    "data",
    [
        b'section,spot,label\nA1,1x1,"a, b"\nA1,2x1,NA\n',
        b'\xef\xbb\xbfSection,Spot,Label\r\nA1,1x1,"a, b"\r\n\r\nA1 ,2x1,\r\n',
        b"section;spot;label\nA1;1x1;a, b\nA1;2x1;NaN\n",
        b"section\tspot\tlabel\nA1\t1x1\ta, b\nA1\t2x1\t\n",
        'section,spot,label\nA1,1x1,"a, b"\nA1,2x1,None'.encode("utf-16"),
        b'"","section","spot","label"\n"1","A1","1x1","a, b"\n"2","A1","2x1",NA\n',
        b'"section","spot","label"\n"1","A1","1x1","a, b"\n"2","A1","2x1",NA\n',
    ],
    ids=["plain", "BOM and CRLF", "semicolons", "tabs", "UTF-16", "R write.csv", "R write.table"],
)
def test_tables_are_read_in_any_usual_dialect(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    table = read_table(str(tmp_path / "t.csv"), ("section", "spot", "label"), "give a CSV file")
    assert [{key: row[key] for key in ROWS[0]} for _, row in table.rows] == ROWS


def test_a_file_that_is_no_table_is_refused_in_few_words(tmp_path: Path) -> None:
    (tmp_path / "labels.geojson").write_text('{"type": "FeatureCollection", "features": [' + "1, " * 100_000 + "1]}")
    (tmp_path / "nul.csv").write_bytes(b"section,spot,label\n\0\0")
    for place in ("labels.geojson", "nul.csv", "absent.csv", ".", "a\0b", "~nobody-of-this-name/x.csv"):
        with pytest.raises(InputError) as caught:
            read_table(
                str(tmp_path / place) if place[0] != "~" else place, ("section", "spot", "label"), "give a CSV file"
            )
        assert len(str(caught.value)) < 800
        assert "give a CSV file" in str(caught.value)
