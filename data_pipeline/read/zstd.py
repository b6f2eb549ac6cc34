"""Reading of zstd files, with windows of up to 2 GiB (``zstd --long=31``), which Arrow's reader refuses."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, Protocol

import zstandard

# The largest that zstd writes. Memory is taken as far as a file's windows need it.
MAX_WINDOW_BYTES = 1 << 31
_READ_BYTES = 1 << 18
# A block of zeros is 30,000 times as long as its compressed form: so much at once bounds what comes out.
_SLICE_BYTES = 1 << 10


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class ZstdFile(io.RawIOBase):
    """The content of a zstd file: of all its frames, one after the other, without skippable ones.

    ``read`` raises OSError if the file is damaged, or ends before a frame does.
    """

    def __init__(self, raw: BinaryIO | io.RawIOBase | _Readable) -> None:
        super().__init__()
        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._frame: Any = None
        self._compressed = memoryview(b"")
        self._content = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            if not self._compressed:
                self._compressed = memoryview(self._raw.read(_READ_BYTES) or b"")
                if not self._compressed:
                    if self._frame is not None:
                        raise OSError("the file ends within a zstd frame: it is truncated")
                    return 0
            self._decompress()
        size = min(len(buffer), len(self._content))
        buffer[:size] = self._content[:size]
        self._content = self._content[size:]
        return size

    def _decompress(self) -> None:
        piece, self._compressed = self._compressed[:_SLICE_BYTES], self._compressed[_SLICE_BYTES:]
        while piece:
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            try:
                content = self._frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise OSError(f"not zstd, or damaged: {error}") from error
            piece = memoryview(b"")
            if self._frame.eof:
                piece, self._frame = memoryview(self._frame.unused_data), None
            self._content = memoryview(bytes(self._content) + content) if self._content else memoryview(content)
