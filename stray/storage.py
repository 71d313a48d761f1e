"""Files by path or URI (`s3://`, `gs://`, `file://`): the one place that turns either into a filesystem."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

_SHARED_CLIENTS = ("s3://", "gs://", "gcs://")
"""Places whose client is made once for each bucket."""
_OBJECT_STORES = ("s3", "gcs")
"""Arrow's names of the filesystems whose files appear, whole, when their stream is closed."""


def absolute(path: str | os.PathLike[str]) -> str:
    """Return `path` as a URI unchanged, or as an absolute local path (Ray workers change directory)."""
    text = os.fspath(path)
    return text if "://" in text else str(Path(text).expanduser().resolve())


def resolve(path: str | os.PathLike[str]) -> tuple[fs.FileSystem, str]:
    """Return the filesystem that `path` lives on, and its place there."""
    place = absolute(path)
    if not place.startswith(_SHARED_CLIENTS):
        filesystem, inner = fs.FileSystem.from_uri(place)
        return filesystem, inner
    parts = urlsplit(place)
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_"))))
    filesystem, bucket = _client(parts._replace(path="/").geturl(), settings)
    return filesystem, f"{bucket.rstrip('/')}/{unquote(parts.path).lstrip('/')}".rstrip("/")


@lru_cache(maxsize=16)
def _client(bucket_uri: str, settings: tuple[tuple[str, str], ...]) -> tuple[fs.FileSystem, str]:
    """Return the client of a bucket, one for all its files: each makes its own connections and asks for credentials.

    `settings` are the environment variables that it is made by.
    """
    filesystem, inner = fs.FileSystem.from_uri(bucket_uri)
    return filesystem, inner


def is_local(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` lies on this machine's filesystem (which other nodes may not see)."""
    return isinstance(resolve(path)[0], fs.LocalFileSystem)


def join(path: str | os.PathLike[str], *parts: str) -> str:
    """Return `path` with `parts` appended, for paths and URIs alike."""
    return "/".join([os.fspath(path).rstrip("/"), *parts])


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether a file or folder is there."""
    filesystem, inner = resolve(path)
    return filesystem.get_file_info(inner).type != fs.FileType.NotFound


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read the whole file. Raises FileNotFoundError when it is absent."""
    filesystem, inner = resolve(path)
    with filesystem.open_input_stream(inner) as stream:
        return stream.read()


def delete_folder(path: str | os.PathLike[str]) -> None:
    """Delete a folder with all that is in it; one that is not there is left alone."""
    filesystem, inner = resolve(path)
    with suppress(FileNotFoundError):
        filesystem.delete_dir(inner)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write the whole file or nothing: a reader sees the old content or the new, never a part.

    Raises OSError when the place cannot be written; the old file is then as it was.
    """
    write_at(*resolve(path), content)


def write_at(filesystem: fs.FileSystem, inner: str, content: bytes | memoryview) -> None:
    """Write bytes to a place of a filesystem, as `write_bytes` does."""
    with new_file(filesystem, inner) as stream:
        stream.write(content)


@contextmanager
def new_file(filesystem: fs.FileSystem, inner: str) -> Iterator[pa.NativeFile]:
    """Yield a stream whose file stands at `inner` once the block has ended; where the block fails, no file does.

    An object store shows a file when its stream is closed, and copies none above 5 GiB in one request, so it is written
    in place there. Elsewhere the file is written beside `inner` and moved; the old file stands until then.
    """
    filesystem.create_dir(inner.rsplit("/", 1)[0], recursive=True)
    in_place = filesystem.type_name in _OBJECT_STORES
    place = inner if in_place else f"{inner}.{uuid.uuid4().hex[:8]}.partial"
    try:
        stream = filesystem.open_output_stream(place)
        try:
            yield stream
        except BaseException:
            # Arrow cannot abort an upload: a stream that closes leaves a file, whole or not.
            with suppress(OSError):
                stream.close()
                filesystem.delete_file(place)
            raise
        stream.close()
        if not in_place:
            filesystem.move(place, inner)
    except BaseException:
        if not in_place and filesystem.get_file_info(place).type != fs.FileType.NotFound:
            filesystem.delete_file(place)
        raise
