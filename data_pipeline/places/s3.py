"""An S3-compatible object store as a :class:`~data_pipeline.places.place.Place`, through boto3.

Endpoint, region, profile, credentials and addressing come from the usual AWS environment and files. Two variables
are this module's own: ``ELECTRA_SCALE_S3_ATTEMPTS`` (tries per request, default ``AWS_MAX_ATTEMPTS`` or 6) and
``ELECTRA_SCALE_S3_TIMEOUT`` (seconds without a byte before a request counts as failed, default 60).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import cannot_write
from data_pipeline.places.names import checked_name, is_file_name, split_s3_url
from data_pipeline.places.place import Entry, Missing, Unavailable
from data_pipeline.places.retries import retries
from data_pipeline.places.s3_client import connection
from data_pipeline.places.s3_errors import SDK_ERRORS, Truncated, code_of, is_transient, refusal, unavailable

T = TypeVar("T")

PART_BYTES = 16 << 20
# Small writes make small page-cache folios, and a reader of the mapped file holds whole ones.
_CHUNK = 1 << 16
_MOST_PARTS = 10_000
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:(\d+)|\*)")
_WRITER = "electra-writer"


class _Answer(Exception):
    """An error code that the caller of a request handles itself.

    ``unsure``: an earlier attempt failed without an answer, so that it may have done its work.
    """

    def __init__(self, code: str, unsure: bool) -> None:
        super().__init__(code)
        self.code = code
        self.unsure = unsure


class _Replaced(Exception):
    """The file's content changed while it was being read."""


class S3Place:
    """``s3://bucket/prefix``. Cheap to make and to pickle; the connection is made at first use, one per process."""

    def __init__(self, url: str) -> None:
        self.bucket, self.prefix = split_s3_url(url)
        self._bucket_seen = False

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Place({self.url!r})"

    def local(self, name: str) -> None:
        self._checked(name)
        return None

    def read(self, name: str) -> bytes:
        key = self._key(name)

        def once() -> bytes:
            # The checksum that was stored with the object, if any, is compared while the body is read.
            answer = connection().client.get_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
            with contextlib.closing(answer["Body"]) as body:
                data: bytes = body.read()
            if len(data) != answer["ContentLength"]:
                raise Truncated(len(data), answer["ContentLength"])
            return data

        return self._ask("read", name, once)

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        if begin >= end:
            return b""

        def once() -> bytes:
            sink = io.BytesIO()
            self._pour(name, begin, end, "", sink.write)
            return sink.getvalue()

        return self._unmixed(name, once)

    def fetch(self, name: str, target: Path, most: int | None = None) -> None:
        def once() -> None:
            entry = self.stat(name)
            if entry is None:
                raise Missing(
                    f"{self.url}/{name} is missing at {connection().endpoint}: restore it, or make what it is part of "
                    "again"
                )
            with open(target, "rb+") as sink:
                position = 0
                size = entry.size if most is None else min(most, entry.size)
                while position < size:
                    stop = min(position + PART_BYTES, size)
                    position = self._pour(name, position, stop, entry.identity, sink.write)
                    if position < stop:
                        raise _Replaced
                sink.truncate()

        try:
            self._unmixed(name, once)
        except OSError as error:
            raise cannot_write(target, error) from error

    def put(self, name: str, data: bytes) -> None:
        key = self._key(name)
        digest = _sha256(data)
        self._ask(
            "write",
            name,
            lambda: connection().client.put_object(Bucket=self.bucket, Key=key, Body=data, ChecksumSHA256=digest),
        )

    def put_file(self, name: str, source: Path) -> None:
        size = source.stat().st_size
        if size <= PART_BYTES:
            self.put(name, source.read_bytes())
            return
        key = self._key(name)
        part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))
        upload = self._ask(
            "write",
            name,
            lambda: connection().client.create_multipart_upload(
                Bucket=self.bucket, Key=key, ChecksumAlgorithm="SHA256"
            ),
        )["UploadId"]
        complete = False
        try:
            parts: list[dict[str, Any]] = []
            with open(source, "rb") as file:
                while data := file.read(part_bytes):
                    parts.append(self._put_part(name, upload, len(parts) + 1, data))
            self._complete(name, upload, parts)
            complete = True
        finally:
            if not complete:
                self._abort(name, upload)
        entry = self.stat(name)
        if entry is None or entry.size != size:
            held = "nothing" if entry is None else f"{entry.size} bytes"
            raise Unavailable(
                f"{self.url}/{name} at {connection().endpoint} holds {held} after an upload of {size} bytes: try again"
            )

    def put_new(self, name: str, data: bytes) -> bool:
        # Not every server honours If-None-Match, and an answer may be lost: look before and after as well.
        if self.stat(name) is not None:
            return False
        key = self._key(name)
        writer = uuid.uuid4().hex
        digest = _sha256(data)
        lost = False
        try:
            self._ask(
                "write",
                name,
                lambda: connection().client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=data,
                    ChecksumSHA256=digest,
                    IfNoneMatch="*",
                    Metadata={_WRITER: writer},
                ),
                expected=("PreconditionFailed", "412"),
            )
        except _Answer as answer:
            if not answer.unsure:
                return False
            lost = True
        head = self._head(name)
        if head is None:
            return False
        found = head.get("Metadata", {}).get(_WRITER)
        if found is not None:
            return bool(found == writer)
        # Some servers keep no metadata; after an answer what is there tells writers of different things apart.
        return not lost and self.read(name) == data

    def stat(self, name: str) -> Entry | None:
        head = self._head(name)
        return None if head is None else Entry(name, head["ContentLength"], _etag(head))

    def delete(self, name: str) -> None:
        key = self._key(name)
        with contextlib.suppress(Missing):
            self._ask("delete", name, lambda: connection().client.delete_object(Bucket=self.bucket, Key=key))

    def _checked(self, name: str) -> str:
        return checked_name(name)

    def _is_file(self, name: str) -> bool:
        return is_file_name(name)

    def _key(self, name: str) -> str:
        name = self._checked(name)
        return f"{self.prefix}/{name}" if self.prefix else name

    def _page(self, prefix: str, more: dict[str, str], expected: tuple[str, ...] = ()) -> dict[str, Any]:
        page: dict[str, Any] = self._ask(
            "list",
            "",
            lambda: connection().client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **more),
            expected=expected,
        )
        return page

    def _head(self, name: str) -> dict[str, Any] | None:
        key = self._key(name)
        try:
            head: dict[str, Any] = self._ask(
                "read", name, lambda: connection().client.head_object(Bucket=self.bucket, Key=key), head=True
            )
        except Missing:
            # An answer to HEAD has no body, so a missing bucket looks like a missing file.
            if not self._bucket_seen:
                with contextlib.suppress(_Answer):
                    self._page(f"{key}/", {}, expected=("AccessDenied", "403"))
                self._bucket_seen = True
            return None
        self._bucket_seen = True
        return head

    def _unmixed(self, name: str, once: Callable[[], T]) -> T:
        """Do ``once``, again from its start while the file is replaced during the reading."""
        attempts = connection().attempts
        for failures in range(1, attempts + 1):
            try:
                return once()
            except _Replaced:
                line = f"{self.url}/{name} at {connection().endpoint} was replaced while it was being read"
                if failures < attempts:
                    retries.report(f"{line}: attempt {failures} of {attempts}, reading it again from its start")
                    retries.wait(failures)
        raise Unavailable(f"{line}, {attempts} attempts: try again when nothing writes to it")

    def _pour(self, name: str, begin: int, end: int, etag: str, sink: Callable[[bytes], object]) -> int:
        """Pass bytes [begin, end) on as they come, resuming where a cut body stopped; returns the position reached,
        which is less than ``end`` only at the file's end.

        Raises:
            _Replaced: the content is not, or no longer, that of ``etag`` (if one is given).
        """
        key = self._key(name)
        position, last, pinned = begin, end, etag

        def once() -> None:
            nonlocal position, last, pinned
            condition = {"IfMatch": f'"{pinned}"'} if pinned else {}
            answer = connection().client.get_object(
                Bucket=self.bucket, Key=key, Range=f"bytes={position}-{end - 1}", **condition
            )
            with contextlib.closing(answer["Body"]) as body:
                if pinned and _etag(answer) not in ("", pinned):
                    raise _Replaced
                pinned = _etag(answer)
                first, size = self._range_answered(name, answer, position, end)
                last = min(end, size)
                skip, stop = position - first, min(last, first + answer["ContentLength"])
                for chunk in body.iter_chunks(_CHUNK) if position < stop else ():
                    skipped, skip = min(skip, len(chunk)), max(0, skip - len(chunk))
                    data = chunk[skipped : skipped + stop - position]
                    sink(data)
                    position += len(data)
                    if position >= stop:
                        break
            if position < stop:
                raise Truncated(position, stop)

        try:
            # A server may send less of a range than there is of it.
            while position < last:
                before = position
                self._ask("read", name, once, expected=("InvalidRange", "416", "PreconditionFailed", "412"))
                if position == before and position < last:
                    raise self._refused_range(name, position, end)
            return position
        except _Answer as answer:
            if answer.code in ("InvalidRange", "416"):
                return position
            raise _Replaced from None

    def _range_answered(self, name: str, answer: dict[str, Any], begin: int, end: int) -> tuple[int, int]:
        """At which byte the body of an answer to the range [begin, end) starts, and the size of the whole file.

        The header decides and not the status: some servers send a range with status 200, and one that does not know
        ranges sends the whole file with it.
        """
        length = int(answer["ContentLength"])
        if found := _CONTENT_RANGE.fullmatch(answer.get("ContentRange") or ""):
            first = int(found[1])
            size = int(found[2]) if found[2] else first + length
        elif answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
            first, size = begin, begin + length
        elif begin == 0:
            # From the start, a range and the whole file are read alike.
            first, size = 0, length
        else:
            entry = self.stat(name)
            size = length if entry is None else entry.size
            if length not in (size, min(end, size) - begin):
                raise self._refused_range(name, begin, end)
            first = 0 if length == size else begin
        if first > begin:
            raise self._refused_range(name, begin, end)
        return first, size

    def _refused_range(self, name: str, begin: int, end: int) -> UserError:
        return UserError(
            f"cannot read {self.url}/{name} at {connection().endpoint}: asked for bytes {begin} to {end - 1}, the "
            "server sends others and does not say which: use another server, or copy the store to a folder"
        )

    def _put_part(self, name: str, upload: str, number: int, data: bytes) -> dict[str, Any]:
        key = self._key(name)
        digest = _sha256(data)
        answer = self._ask(
            "write",
            name,
            lambda: connection().client.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=digest
            ),
        )
        return {"PartNumber": number, "ETag": answer.get("ETag", ""), "ChecksumSHA256": digest}

    def _complete(self, name: str, upload: str, parts: list[dict[str, Any]]) -> None:
        key = self._key(name)
        try:
            self._ask(
                "write",
                name,
                lambda: connection().client.complete_multipart_upload(
                    Bucket=self.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
                ),
                expected=("NoSuchUpload",),
            )
        except _Answer as answer:
            # A first try whose answer was lost has ended the upload; the caller compares what is there.
            if not answer.unsure:
                raise Unavailable(
                    f"{self.url}/{name} at {connection().endpoint}: the upload was aborted by someone else: try again"
                ) from None

    def _abort(self, name: str, upload: str) -> None:
        key = self._key(name)
        with contextlib.suppress(UserError):
            self._ask(
                "write",
                name,
                lambda: connection().client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload),
                attempts=2,
            )

    def _ask(
        self,
        doing: str,
        name: str,
        once: Callable[[], T],
        *,
        expected: tuple[str, ...] = (),
        head: bool = False,
        attempts: int | None = None,
    ) -> T:
        """Do ``once``, again while its failure may pass; every other failure becomes a line for the user."""
        link = connection()
        attempts = attempts or link.attempts
        where = f"{self.url}/{name}" if name else self.url
        unsure = False
        for failures in range(1, attempts + 1):
            try:
                return once()
            except SDK_ERRORS as error:
                code = code_of(error)
                if code in expected:
                    raise _Answer(code, unsure) from None
                if not is_transient(error):
                    # Causes are cut off: the words of a server or of botocore may hold a key or a signed text.
                    if head and code not in ("404", "NoSuchKey"):
                        code = self._spelled_out(name) or code
                    raise refusal(error, code, doing, where, self.bucket, link.endpoint) from None
                unsure = True
                if failures == attempts:
                    raise unavailable(error, doing, where, link.endpoint, attempts) from None
                line = unavailable(error, doing, where, link.endpoint, None)
            retries.report(f"{line}: attempt {failures} of {attempts}, trying again")
            retries.wait(failures)
        raise AssertionError("unreachable: attempts is at least 1")

    def _spelled_out(self, name: str) -> str | None:
        """The error's code for a file whose HEAD was refused: only an answer with a body holds it."""
        try:
            connection().client.get_object(Bucket=self.bucket, Key=self._key(name), Range="bytes=0-0")["Body"].close()
        except SDK_ERRORS as error:
            return code_of(error)
        return None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        begin = f"{self.prefix}/" if self.prefix else ""
        found: list[Entry] = []
        more: dict[str, str] = {}
        while True:
            page = self._page(begin + prefix, more)
            for item in page.get("Contents", []):
                name = item["Key"][len(begin) :]
                if self._is_file(name):
                    found.append(Entry(name, item["Size"], _etag(item)))
            if not page.get("IsTruncated"):
                break
            token, keys = page.get("NextContinuationToken"), [item["Key"] for item in page.get("Contents", [])]
            before = more
            # Not every server gives a token.
            more = {"ContinuationToken": token} if token else {"StartAfter": keys[-1]} if keys else before
            if more == before:
                raise UserError(
                    f"cannot list {self.url} at {connection().endpoint}: the server sends the same page again and again"
                )
        # Servers that keep folders underneath list in the order of their folders.
        yield from sorted(found, key=lambda entry: entry.name)


def _sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _etag(answer: dict[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')
