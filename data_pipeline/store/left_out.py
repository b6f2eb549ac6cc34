"""``left_out.json``: which records of its sources a store does not hold, since they gave no text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipeline.places.json_file import decode_record, encode_record
from data_pipeline.places.place import Missing, Place

LEFT_OUT_NAME = "left_out.json"


@dataclasses.dataclass(frozen=True)
class LeftOutFile:
    """``count`` records of one file that gave no text for one reason.

    ``input`` is the file's number among the inputs of its source, ``name`` its name; ``what`` is the reason in words,
    ``example`` describes the first such record.
    """

    input: int
    name: str
    reason: str
    what: str
    count: int
    example: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Of ``records`` records of one source, ``left_out`` gave no text.

    ``files`` has the first of them by file and reason, ``other_records`` and ``other_files`` count the rest.
    """

    source: int
    records: int
    left_out: int
    files: list[LeftOutFile]
    other_records: int = 0
    other_files: int = 0

    @property
    def share(self) -> float:
        """The share of the source's records that is left out."""
        return self.left_out / max(1, self.records)


def left_out_from(content: Sequence[dict[str, Any]]) -> list[LeftOut]:
    """What :func:`dataclasses.asdict` made plain; raises KeyError or TypeError for anything else."""
    return [LeftOut(**{**part, "files": [LeftOutFile(**file) for file in part["files"]]}) for part in content]


def put_left_out(place: Place, found: Sequence[LeftOut]) -> None:
    """Write the file into a store, or remove it where nothing is left out."""
    if found:
        place.put(LEFT_OUT_NAME, encode_record({"version": 1, "sources": [dataclasses.asdict(part) for part in found]}))
    elif place.stat(LEFT_OUT_NAME) is not None:
        place.delete(LEFT_OUT_NAME)


def load_left_out(place: Place) -> list[LeftOut]:
    """What a store's file lists; nothing if it has none.

    Raises:
        UserError: the file is damaged, or the place does not answer.
    """
    try:
        data = place.read(LEFT_OUT_NAME)
    except Missing:
        return []
    return decode_record(
        data,
        f"{place.url}/{LEFT_OUT_NAME}",
        lambda content: left_out_from(content["sources"]),
        advice="delete it: it is only there to be read",
    )


def left_out_lines(part: LeftOut, names: dict[int, str], most: int = 10) -> Iterator[str]:
    """A line for the source, and one for each of the files with the most records left out.

    Args:
        names: what to call an input, by its number; others are called by their names.
        most: how many files to list.
    """
    yield (f"sources[{part.source}]: {part.left_out:,} of {part.records:,} records left out ({100 * part.share:.3g} %)")
    listed = sorted(part.files, key=lambda file: -file.count)[:most]
    for file in listed:
        yield f"  {names.get(file.input, file.name)}: {file.count:,} {file.what}, such as {file.example}"
    rest = part.left_out - sum(file.count for file in listed)
    if rest:
        but = f", but for {part.other_records:,} of {part.other_files:,} other files" if part.other_records else ""
        yield f"  and {rest:,} more; {LEFT_OUT_NAME} in the store lists them{but}"
