"""Parquet files that a stranger made: whatever is not of the contract's types is refused before a value is touched."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.parquet import read_results, read_row_groups
from stray.cohort.schema import GENE_TABLE
from stray.errors import InputError
from tests.support.tiny import config_of, write_her2st


class Trap(pa.ExtensionType):
    """Runs code when Arrow makes it, as Ray's pickled objects do when their values are touched."""

    sprung = 0

    def __init__(self) -> None:
        super().__init__(pa.binary(), "tests.trap")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Trap:
        cls.sprung += 1
        return cls()


@pytest.fixture
def trap():
    pa.register_extension_type(Trap())
    Trap.sprung = 0
    yield Trap
    pa.unregister_extension_type("tests.trap")


def trapped(path: Path) -> str:
    column = pa.ExtensionArray.from_storage(Trap(), pa.array([b"code"]))
    pq.write_table(pa.table({"index": pa.array([0], pa.int32()), "symbol": column}), path)
    Trap.sprung = 0
    return str(path)


def test_arrow_makes_an_extension_type_by_opening_a_file(tmp_path: Path, trap: type[Trap]) -> None:
    pq.read_metadata(trapped(tmp_path / "genes.parquet"))
    pq.ParquetFile(tmp_path / "genes.parquet").close()
    assert trap.sprung, "the trap works: what does not spring it is safe"


@pytest.mark.parametrize("wanted", [["index", "symbol"], ["index"], None])
def test_no_extension_type_is_made_even_of_columns_that_are_not_read(
    tmp_path: Path, trap: type[Trap], wanted: list[str] | None
) -> None:
    path = trapped(tmp_path / "genes.parquet")
    with pytest.raises(InputError, match="extension type") as error:
        read_results(path) if wanted is None else read_row_groups(path, None, wanted)
    assert error.value.problems[0].place == path
    assert not trap.sprung


def test_a_schema_that_is_hidden_behind_a_second_one_is_refused(tmp_path: Path, trap: type[Trap]) -> None:
    path = Path(trapped(tmp_path / "genes.parquet"))
    plain = pa.table({"index": pa.array([0], pa.int32())}, metadata={"ARROW:schema": "QQ=="})
    pq.write_table(plain, tmp_path / "two.parquet")
    with pytest.raises(InputError, match="one Arrow schema"):
        read_row_groups(str(tmp_path / "two.parquet"), None, ["index"])
    # The value's field in Thrift's long form, which Arrow reads too.
    content = path.read_bytes().replace(b"ARROW:schema\x18", b"ARROW:schema\x08")
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_row_groups(str(path), None, ["index"])
    assert not trap.sprung


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("symbol", pa.array([1])),
        ("symbol", pa.array([{"a": 1}])),
        ("symbol", pa.array([b"x"])),
        ("n_sections", pa.array([1.5])),
        ("index", pa.array([[1]])),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path: Path, column: str, values: pa.Array) -> None:
    good = {"index": [0], "symbol": ["A"], "id": ["E"], "n_sections": [1]}
    table = pa.table({name: pa.array(value, GENE_TABLE.field(name).type) for name, value in good.items()})
    table = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(table, tmp_path / "genes.parquet")
    with pytest.raises(InputError, match=re.escape(f"the contract says {GENE_TABLE.field(column).type}")) as error:
        read_row_groups(str(tmp_path / "genes.parquet"), None, list(good))
    assert error.value.problems[0].place.endswith(f"genes.parquet, column {column}")


def test_results_hold_plain_columns_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "predictions.parquet")
    plain = pa.table({"spot_id": ["a"], "probability/x": [0.5], "scored": [True], "features": [[1.0]]})
    pq.write_table(plain.replace_schema_metadata({"k": "v"}), path)
    assert read_results(path).equals(plain)
    assert (read_results(path).schema.metadata or {})[b"k"] == b"v"
    pq.write_table(plain.append_column("odd", pa.array([{"a": 1}])), path)
    with pytest.raises(InputError, match="unknown type struct"):
        read_results(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 4 + b"PAR1", b"\0" * 100, b"PAR1xxxxPARE"])
def test_what_is_no_parquet_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "genes.parquet").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_row_groups(str(tmp_path / "genes.parquet"), None, ["index"])


def test_a_dataset_with_rays_pickled_objects_runs_no_code(tmp_path: Path) -> None:
    """The file that was shown: a gene table whose symbols are Ray's pickles."""
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

    class Run:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    write_her2st(tmp_path / "source", "A1")
    out = tmp_path / "out"
    build_dataset(config_of(tmp_path / "source"), str(out))
    column = ArrowPythonObjectArray.from_objects([Run()])
    pq.write_table(pa.table({"symbol": column}), out / "genes.parquet")
    assert not (tmp_path / "ran").exists()
    manifest = (out / "manifest.json").read_text()
    size = (out / "genes.parquet").stat().st_size
    entry = re.search(r'"genes": \{\s*"bytes": (\d+)', manifest)
    assert entry
    (out / "manifest.json").write_text(manifest.replace(entry[0], entry[0].replace(entry[1], str(size))))
    dataset = PairedDataset.open(str(out))
    with pytest.raises(InputError, match="extension type"):
        dataset.genes.column("symbol").to_pylist()
    assert not (tmp_path / "ran").exists()
