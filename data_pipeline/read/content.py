"""What a file's first bytes say: its compression, its encoding, and whether it is text at all."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from data_pipeline.errors import UserError

HEAD_BYTES = 8192
# A page of text has none; a stray one is dropped by cleaning like any control character.
_MOST_NULS = 0.01

_UNPACK = "unpack it, and name what was in it"
_CONVERT = "convert it to plain text, or leave it out"
_BZ2 = re.compile(rb"BZh[1-9](?:\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)")
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
_CPIO = re.compile(rb"07070[12][0-9A-Fa-f]{104}|070707[0-7]{70}")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_ENDINGS = {"gzip": ".gz", "zstd": ".zst", "bz2": ".bz2"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# fmt: off
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive, or a document made of one such as .docx", _UNPACK + ", or convert the document"),
    (b"PK\x05\x06", "an empty zip archive", "leave it out"),
    (b"PK\x07\x08", "a zip archive of several parts", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it (`xz -d`), or compress it by gzip, zstd or bzip2 instead"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "unpack it (`lz4 -d`), or compress it by gzip, zstd or bzip2 instead"),
    (b"\x89LZO\x00", "compressed by lzop", "unpack it, or compress it by gzip, zstd or bzip2 instead"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed by snappy", "unpack it, or compress it by gzip, zstd or bzip2 instead"),
    (b"\x1f\x9d", "compressed by compress (.Z)", "unpack it, or compress it by gzip, zstd or bzip2 instead"),
    (b"\x5d\x00\x00", "compressed by lzma", "unpack it, or compress it by gzip, zstd or bzip2 instead"),
    (b"MSCF\x00", "a cabinet archive", _UNPACK),
    (b"!<arch>\n", "an ar archive or a Debian package", _UNPACK),
    (b"\xed\xab\xee\xdb", "an rpm package", _UNPACK),
    (b"WARC/1.", "a web archive (WARC)", "extract its text first"),
    (b"%PDF-", "a PDF document", _CONVERT),
    (b"{\\rtf", "an RTF document", _CONVERT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", _CONVERT),
    (b"\xff\xff\xff\xff", "an Arrow stream", "read its folder as kind datasets, or convert it to Parquet"),
    (b"Obj\x01", "an Avro file", "convert it to Parquet or JSON Lines"),
    (b"SQLite format 3\x00", "an SQLite database", "export its text"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "export its text"),
    (b"\x93NUMPY", "a NumPy array", "leave it out"),
    (b"\x80\x02", "a Python pickle", "leave it out"),
    (b"\x80\x03", "a Python pickle", "leave it out"),
    (b"\x80\x04", "a Python pickle", "leave it out"),
    (b"\x80\x05", "a Python pickle", "leave it out"),
    (b"\x89PNG", "an image", "leave it out"),
    (b"\xff\xd8\xff", "an image", "leave it out"),
    (b"II*\x00", "an image", "leave it out"),
    (b"MM\x00*", "an image", "leave it out"),
    (b"ID3\x02", "a sound file", "leave it out"),
    (b"ID3\x03", "a sound file", "leave it out"),
    (b"ID3\x04", "a sound file", "leave it out"),
    (b"OggS\x00", "a sound file", "leave it out"),
    (b"fLaC\x00", "a sound file", "leave it out"),
    (b"\x1aE\xdf\xa3", "a film", "leave it out"),
    (b"\x7fELF", "a program", "leave it out"),
    (b"\xca\xfe\xba\xbe", "a program", "leave it out"),
    (b"\xcf\xfa\xed\xfe", "a program", "leave it out"),
    (b"\x00asm", "a program", "leave it out"),
)
# Plain words, with which a text may start: what follows them is not text.
_WORDS: tuple[tuple[bytes, str, str], ...] = (
    (b"LZIP", "compressed by lzip", "unpack it, or compress it by gzip, zstd or bzip2 instead"),
    (b"PAR1", "a Parquet file", "read it as kind parquet"),
    (b"PARE", "an encrypted Parquet file", "decrypt it, and read it as kind parquet"),
    (b"ARROW1", "an Arrow file", "read its folder as kind datasets, or convert it to Parquet"),
    (b"FEA1", "a Feather file", "convert it to Parquet"),
    (b"ORC", "an ORC file", "convert it to Parquet"),
    (b"GGUF", "a model file", "leave it out"),
    (b"GIF87a", "an image", "leave it out"),
    (b"GIF89a", "an image", "leave it out"),
    (b"AT&TFORM", "a DjVu document", _CONVERT),
)
# fmt: on


def compression_in(head: bytes, location: str, ending: str | None) -> str | None:
    """The compression that a file's first bytes show, None for plain content; ``ending`` is what its name promises.

    Raises:
        UserError: the name promises a compression, and the content is not compressed at all.
    """
    found = _compression(head)
    if found is None and ending is not None and head:
        raise UserError(
            f"{location} ends in {_ENDINGS[ending]}, but its content is not compressed by {ending}: restore the file, "
            f"or take the ending off its name"
        )
    return found


def _compression(head: bytes) -> str | None:
    if _BZ2.match(head):
        return "bz2"
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    return "zstd" if _ZSTD.match(head) else None


def refuse_foreign(head: bytes, location: str, packed: bool = False) -> None:
    """Refuse a file whose first bytes are those of an archive, a document, a program or other data that is not text.

    Args:
        head: the first :data:`HEAD_BYTES` bytes, after decompression.
        packed: whether they were compressed, for the message.

    Raises:
        UserError: naming the file, what it is, and what to do.
    """
    found = _foreign(head)
    if packed and (again := _compression(head)):
        found = f"compressed a second time, by {again}", "unpack it once"
    if found is not None:
        what, advice = found
        inside = " (inside its compression)" if packed else ""
        raise UserError(f"{location} is {what}{inside}, not text: {advice}")


def _foreign(head: bytes) -> tuple[str, str] | None:
    for first, what, advice in _FOREIGN:
        if head.startswith(first):
            return what, advice
    if _CONTROL.search(head):
        for first, what, advice in _WORDS:
            if head.startswith(first):
                return what, advice
    if _CPIO.match(head):
        return "a cpio archive", _UNPACK
    if head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"WEBP", b"AVI ")):
        return "an image, a sound file or a film", "leave it out"
    if _is_tar(head):
        return "a tar archive", _UNPACK
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 1 << 32:
        return "a model file (safetensors)", "leave it out"
    return None


def _is_tar(head: bytes) -> bool:
    """Whether the first block is a member's header of a tar archive, by its own checksum."""
    block = head[:512]
    if len(block) < 512:
        return False
    field = block[148:156].strip(b" \0")
    try:
        expected = int(field, 8)
    except ValueError:
        return False
    return expected == sum(block[:148]) + sum(block[156:]) + 8 * 0x20


def other_kind(head: bytes) -> str | None:
    """The kind of source that text looks like the start of, where it is read as plain text; None if like no other."""
    if head.lstrip().startswith(b"<mediawiki"):
        return "wikipedia"
    try:
        record = json.loads(head.split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return None
    return "jsonl" if isinstance(record, dict) and record else None


def encoding_of(head: bytes, location: str) -> tuple[str, int]:
    """The encoding that a byte order mark names, utf-8 where there is none, and the length of the mark.

    Raises:
        UserError: the bytes hold so many NULs that they are not UTF-8 text.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding, len(mark)
    nuls = head.count(0)
    if nuls > _MOST_NULS * len(head):
        raise UserError(_nuls(head, nuls, location))
    return "utf-8", 0


def _nuls(head: bytes, nuls: int, location: str) -> str:
    quarters = [head[first::4].count(0) for first in range(4)]
    empty = {first for first, count in enumerate(quarters) if count >= 0.9 * (len(head) // 4)}
    even, odd = quarters[0] + quarters[2], quarters[1] + quarters[3]
    wide = None
    if len(head) >= 8 and empty in ({1, 2, 3}, {2, 3}, {0, 1, 2}, {0, 1}):
        wide = "UTF-32LE" if 3 in empty else "UTF-32BE"
    elif max(even, odd) > 10 * min(even, odd):
        wide = "UTF-16LE" if odd > even else "UTF-16BE"
    if wide is not None:
        return (
            f"{location} looks like {wide} without a byte order mark: convert it, as by `iconv -f {wide} -t UTF-8`, or "
            "leave it out"
        )
    return (
        f"{location} is not text: {nuls:,} of its first {len(head):,} bytes are NUL; convert it to plain text, or "
        "leave it out"
    )


class Transcoded(io.RawIOBase):
    """A stream in another encoding, read as UTF-8. What can't be decoded becomes bytes that are not UTF-8 either, so
    that it costs its own line."""

    def __init__(self, source: BinaryIO, encoding: str, block: int = 1 << 16) -> None:
        super().__init__()
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=_BROKEN)
        self._block = block
        self._held = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held and not self._ended:
            data = self._source.read(self._block)
            self._ended = not data
            self._held = self._decoder.decode(data, final=self._ended).encode("utf-8", "surrogatepass")
        found = self._held[: len(buffer)]
        self._held = self._held[len(found) :]
        buffer[: len(found)] = found
        return len(found)


_BROKEN = "electra-broken"


def _broken(error: UnicodeError) -> tuple[str, int]:
    return "\udcff", cast(UnicodeDecodeError, error).end


codecs.register_error(_BROKEN, cast(Callable[[UnicodeError], tuple[str, int]], _broken))
