"""A bucket of somebody else's files, known by their keys alone."""

from __future__ import annotations

from data_pipeline.places.s3 import S3Place


class S3Keys(S3Place):
    """A whole bucket, to read from: every key is a name, whatever its characters.

    An empty part, ``.`` or ``..`` between two slashes has no meaning in a key, and one may start or end with a slash.
    """

    def __init__(self, bucket: str) -> None:
        super().__init__(f"s3://{bucket}")

    def _checked(self, name: str) -> str:
        return name

    def _is_file(self, name: str) -> bool:
        return True
