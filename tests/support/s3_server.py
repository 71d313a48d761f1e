"""A bucket server over HTTP, for tests: as much of S3 as Arrow's client speaks. As on S3, an object appears when its
upload is complete, and a copy of more than `largest_copy` bytes is refused.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

LARGEST_COPY = 1000


class Bucket(ThreadingHTTPServer):
    """The server, with the objects of all its buckets by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[str] = []
        self.numbers = count()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve() -> Iterator[Bucket]:
    """A server that listens while the block runs."""
    bucket = Bucket()
    thread = threading.Thread(target=bucket.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        bucket.shutdown()
        bucket.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/") + ("/" if self.path.split("?")[0].endswith("/") else "")

    @property
    def query(self) -> dict[str, str]:
        pairs = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in pairs.items()}

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return content
        joined = b""
        while size := int((split := content.partition(b"\r\n"))[0].split(b";")[0], 16):
            joined, content = joined + split[2][:size], split[2][size + 2 :]
        return joined

    def answer(self, code: int, content: bytes | str = b"", **headers: str) -> None:
        self.server.requests.append(f"{self.command} {self.path} {code}")
        sent = content.encode() if isinstance(content, str) else content
        self.send_response(code)
        for name, value in {"Content-Length": str(len(sent)), "ETag": '"0"', **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def do_HEAD(self) -> None:
        found = self.server.objects.get(self.key)
        if found is None and self.key.strip("/").count("/"):
            self.answer(404)
        else:
            self.answer(200, found or b"")

    def do_GET(self) -> None:
        if "list-type" in self.query:
            return self.answer(200, self.listing())
        found = self.server.objects.get(self.key)
        if found is None:
            return self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            return self.answer(200, found)
        part = found[int(wanted[1]) : int(wanted[2]) + 1]
        return self.answer(206, part, Content_Range=f"bytes {wanted[1]}-{wanted[2]}/{len(found)}")

    def listing(self) -> str:
        bucket, prefix, delimiter = self.key.split("/")[0], self.query.get("prefix", ""), self.query.get("delimiter")
        keys = [key.removeprefix(f"{bucket}/") for key in sorted(self.server.objects) if key.startswith(f"{bucket}/")]
        found, folders = [], []
        for key in (key for key in keys if key.startswith(prefix)):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.append(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                found.append(key)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[f'{bucket}/{key}'])}</Size></Contents>"
            for key in found
        )
        shared = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in set(folders))
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}{shared}</ListBucketResult>"

    def do_PUT(self) -> None:
        content = self.body()
        if source := self.headers.get("x-amz-copy-source"):
            copied = self.server.objects[unquote(source).strip("/")]
            if len(copied) > LARGEST_COPY:
                return self.answer(400, "<Error><Code>EntityTooLarge</Code></Error>")
            self.server.objects[self.key] = copied
            return self.answer(200, "<CopyObjectResult><ETag>0</ETag></CopyObjectResult>")
        if "uploadId" in self.query:
            self.server.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = content
        else:
            self.server.objects[self.key] = content
        return self.answer(200)

    def do_POST(self) -> None:
        content = self.body()
        if "uploads" in self.query:
            name = str(next(self.server.numbers))
            self.server.uploads[name] = {}
            made = f"<UploadId>{name}</UploadId>"
            return self.answer(200, f"<InitiateMultipartUploadResult>{made}</InitiateMultipartUploadResult>")
        if "delete" in self.query:
            for key in re.findall(r"<Key>(.*?)</Key>", content.decode()):
                self.server.objects.pop(f"{self.key.strip('/')}/{key}", None)
            return self.answer(200, "<DeleteResult/>")
        parts = self.server.uploads.pop(self.query["uploadId"])
        self.server.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
        return self.answer(200, "<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self.answer(204)
