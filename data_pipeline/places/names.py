"""Names of places and of the files in them: which are valid, and which are in an object store."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from data_pipeline.errors import UserError

S3_SCHEME = "s3://"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def is_object_store(url: str | Path) -> bool:
    """Whether the text names an object store and not a folder."""
    return str(url).startswith(S3_SCHEME)


def split_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix (without slashes around it, may be empty) of ``s3://bucket/prefix``.

    Raises:
        UserError: there is no bucket, it can't be a bucket's name, or the prefix is not a plain path.
    """
    bucket, key = split_s3_key(url)
    prefix = key.rstrip("/")
    try:
        return bucket, checked_name(prefix) if prefix else ""
    except ValueError:
        raise UserError(f"{url}: {prefix!r} is not a plain path: give s3://bucket/prefix") from None


def split_s3_key(url: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; a key may hold any characters, and ``//`` or ``..`` mean nothing in it.

    Raises:
        UserError: there is no bucket, or it can't be a bucket's name.
    """
    bucket, _, key = url.removeprefix(S3_SCHEME).partition("/")
    if "@" in bucket:
        raise UserError("an s3:// URL must not hold credentials: give them by AWS_PROFILE or AWS_ACCESS_KEY_ID")
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{url}: {bucket!r} is not a bucket's name: give s3://bucket/prefix")
    return bucket, key


def is_utf8(name: str) -> bool:
    """Whether a name can be written in UTF-8; a file's name may be any bytes, which Python keeps as half characters."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_file_name(name: str) -> bool:
    """Whether a name is a plain relative path, which stays in its place and can be written in UTF-8."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or str(path) != name:
        return False
    return is_utf8(name)


def checked_name(name: str) -> str:
    """The name itself; raises ValueError for one that :func:`is_file_name` does not take."""
    if not is_file_name(name):
        raise ValueError(f"{name!r} is not a relative file name")
    return name
