"""Safe reading of Parquet files from untrusted sources: only the contract's types, and no code execution.

Arrow makes a file's extension types when it opens the file, and Ray registers one whose values are pickles. So the
footer is checked as bytes before Arrow sees it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from stray import storage
from stray.cohort.schema import GENE_TABLE, SPOTS
from stray.errors import InputError, Problem

CONTRACT = {field.name: field.type for field in (*SPOTS, *GENE_TABLE)}
"""Type of every column of a paired dataset."""

_AGAIN = "the file is damaged: `stray inspect DATASET --verify` lists such files; ingest again"
_FOREIGN = "stray does not write such files: ingest again, or do not use the file"
_MAGIC, _SCHEMA_KEY, _EXTENSION = b"PAR1", b"ARROW:schema", b"ARROW:extension"
_TAIL_BYTES = 64 * 1024
"""Bytes read at once from the end of a file: on object storage each read is a round trip."""


def read_row_groups(path: str, row_groups: Sequence[int] | None, columns: Sequence[str]) -> pa.Table:
    """Return `columns` of the given row groups (None: all) of a dataset's file at `path` (path or URI), in that order.

    Raises InputError that names the file, and the row group which cannot be read or the column of another type than
    the contract's.
    """
    with _opened(path) as file:
        _check_types(path, file.schema_arrow, columns)
        tables = []
        for group in range(file.num_row_groups) if row_groups is None else row_groups:
            try:
                tables.append(file.read_row_group(group, columns=list(columns), use_threads=False))
            except (OSError, pa.ArrowException, KeyError) as error:
                place = f"{path}, row group {group}"
                raise InputError(Problem(place, f"cannot be read: {first_line(error)}", _AGAIN)) from error
        if not tables:
            return file.schema_arrow.empty_table().select(list(columns))
    return pa.concat_tables(tables)


def column_names(path: str) -> list[str]:
    """Return the names of the columns of the Parquet file at `path` (path or URI). Raises InputError when it cannot be
    read.
    """
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def read_results(path: str) -> pa.Table:
    """Return the whole table of results (predictions, features) at `path`, with its metadata; its columns are numbers,
    text, truth values, or lists of them.

    Raises InputError that names the file, and a column of another type.
    """
    with _opened(path) as file:
        bad = [field for field in file.schema_arrow if not _is_plain(field.type)]
        if bad:
            raise InputError(
                Problem(f"{path}, column {f.name}", f"has the unknown type {f.type}", _FOREIGN) for f in bad
            )
        try:
            return file.read(use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise InputError(Problem(path, f"cannot be read: {first_line(error)}", "write it again")) from error


def column_bytes(path: str, column: str) -> int:
    """Return the bytes of a column of the Parquet file at `path` (path or URI) once it is decompressed, by the file's
    footer.

    Raises InputError that names the file when it cannot be read.
    """
    with _opened(path) as file:
        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        if column not in leaves:
            raise InputError(Problem(path, f"has no column {column}", _AGAIN))
        return sum(group.column(leaves.index(column)).total_uncompressed_size for group in groups)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    try:
        filesystem, inner = storage.resolve(path)
        stream = filesystem.open_input_file(inner)
        footer = _footer(stream)
        _check_footer(path, footer)
        # Use the footer that was checked; do not read it again.
        alone = pa.BufferReader(_MAGIC + footer + len(footer).to_bytes(4, "little") + _MAGIC)
        file = pq.ParquetFile(stream, metadata=pq.read_metadata(alone))
    except (OSError, ValueError) as error:  # Arrow's errors are subclasses of ValueError
        raise InputError(Problem(path, f"cannot be read as Parquet: {first_line(error)}", _AGAIN)) from error
    with file, stream:
        yield file


def _footer(stream: pa.NativeFile) -> bytes:
    size = stream.size()
    stream.seek(max(0, size - _TAIL_BYTES))
    tail = stream.read()
    length = int.from_bytes(tail[-8:-4], "little")
    if size < 12 or tail[-4:] != _MAGIC or length > size - 12:
        raise pa.ArrowInvalid("the Parquet footer is missing or cut off")
    if length > len(tail) - 8:
        stream.seek(size - 8 - length)
        tail = stream.read()
    return tail[-8 - length : -8]


def _check_footer(path: str, footer: bytes) -> None:
    """Refuse extension types. Arrow's schema stands in the footer once, as base64, after its key (Thrift's compact
    protocol: the value's field header, its length as a varint, its bytes); anything else is refused too.
    """
    count = footer.count(_SCHEMA_KEY)
    if count == 0:
        return
    start = footer.index(_SCHEMA_KEY) + len(_SCHEMA_KEY)
    length = shift = 0
    place = start + 1
    while place < len(footer) and footer[place] & 0x80:
        length, shift, place = length | (footer[place] & 0x7F) << shift, shift + 7, place + 1
    if count > 1 or footer[start : start + 1] != b"\x18" or place >= len(footer):
        raise InputError(Problem(path, "its footer does not hold one Arrow schema", _FOREIGN))
    length |= footer[place] << shift
    try:
        schema = base64.b64decode(footer[place + 1 : place + 1 + length], validate=True)
    except binascii.Error as error:
        raise InputError(Problem(path, f"its Arrow schema cannot be read: {error}", _FOREIGN)) from None
    if _EXTENSION in schema:
        what = "has a column of an extension type, which can run code when it is read; the file was not read"
        raise InputError(Problem(path, what, _FOREIGN))


def _check_types(path: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    problems = []
    for name in columns:
        if name not in schema.names:
            problems.append(Problem(path, f"has no column {name}", _AGAIN))
        elif (found := schema.field(name).type) != CONTRACT[name]:
            what = f"has the type {found}, the contract says {CONTRACT[name]}"
            problems.append(Problem(f"{path}, column {name}", what, _FOREIGN))
    if problems:
        raise InputError(problems)


def _is_plain(found: pa.DataType) -> bool:
    kinds = pa.types
    if kinds.is_dictionary(found) or kinds.is_list(found) or kinds.is_fixed_size_list(found):
        return _is_plain(found.value_type)
    plain = (kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_string, kinds.is_large_string)
    return any(is_kind(found) for is_kind in (*plain, kinds.is_null))
