"""What a build leaves out: gathered over all tasks, refused above a share, and reported at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.config import BuildConfig
from data_pipeline.errors import UserError
from data_pipeline.read.inputs import Input
from data_pipeline.read.passed_over import shown
from data_pipeline.read.reasons import Reason, words_for
from data_pipeline.store.left_out import LEFT_OUT_NAME, LeftOut, LeftOutFile, left_out_lines

# Files with a line of their own in the store's list; a source may have millions.
_MOST_FILES = 1000
# A share above this is not to be overlooked.
_WARNED = 0.02
_WORDS = {
    "too_short": "shorter than clean.min_chars",
    "too_long": "longer than clean.max_chars",
    "language": "in another language",
    "duplicates": "equal to an earlier one",
    "near_duplicates": "nearly equal to an earlier one",
    "without_tokens": "without a token",
    "skipped": "pages that are not articles",
}


class Gathered:
    """Adds up, task by task in canonical order, what gave no text and why documents were dropped."""

    def __init__(self, config: BuildConfig, inputs: Sequence[Input]) -> None:
        self._config = config
        self._numbers: dict[tuple[int, str], tuple[int, str]] = {}
        for source in range(len(config.sources)):
            own = [entry for entry in inputs if entry.source == source]
            self._numbers.update({(source, entry.location): (n, entry.name) for n, entry in enumerate(own)})
        self._records = [0] * len(config.sources)
        self._left = [0] * len(config.sources)
        self._files: list[dict[tuple[str, Reason], tuple[int, str]]] = [{} for _ in config.sources]
        self._others: list[tuple[int, set[str]]] = [(0, set()) for _ in config.sources]
        self.examples: dict[str, str] = {}

    def add(self, source: int, info: Mapping[str, Any]) -> None:
        """Take the record that reading a task of a source left."""
        self._records[source] += info.get("records", 0)
        for location, reason, count, example in info.get("left_out", []):
            self._left[source] += count
            files = self._files[source]
            if (location, reason) in files or len(files) < _MOST_FILES:
                before, first = files.get((location, reason), (0, example))
                files[location, reason] = (before + count, first)
            else:
                number, others = self._others[source]
                self._others[source] = (number + count, others | {location} if len(others) < _MOST_FILES else others)
        for name, location in info.get("examples", {}).items():
            self.examples.setdefault(name, location)

    def add_dropped(self, name: str, info: Mapping[str, Any], dropped: npt.NDArray[np.bool_]) -> None:
        """Remember where the first document is that the serial step dropped for the reason ``name``; ``dropped`` is
        (documents,) of one task."""
        if name in self.examples or not dropped.any():
            return
        row = int(dropped.argmax())
        for location, rows in info.get("rows", []):
            if row < rows:
                self.examples[name] = location
                return
            row -= rows

    def result(self) -> list[LeftOut]:
        """The sources that have records without text."""
        found = []
        for source, (records, left) in enumerate(zip(self._records, self._left, strict=True)):
            if not left:
                continue
            field = self._config.sources[source].field
            files = [
                LeftOutFile(
                    *self._numbers.get((source, location), (-1, shown(location))),
                    reason,
                    words_for(reason, field),
                    count,
                    example,
                )
                for (location, reason), (count, example) in self._files[source].items()
            ]
            number, others = self._others[source]
            found.append(LeftOut(source, records, left, files, number, len(others)))
        return found


def refuse_share(config: BuildConfig, found: Sequence[LeftOut], inputs: Sequence[Input]) -> None:
    """Refuse a build of which a source has too many records without text.

    Raises:
        UserError: naming the source, the files with the most of them, and the setting that allows it.
    """
    for part in found:
        if part.share > config.most_left_out:
            first, *files = left_out_lines(part, input_names(inputs, part.source), most=3)
            need = min(1.0, math.ceil(1000 * part.share) / 1000)
            raise UserError(
                f"{first}, more than most_left_out {config.most_left_out:g}: "
                + "; ".join(line.strip() for line in files if LEFT_OUT_NAME not in line)
                + f"; correct the source, or continue with most_left_out {need:g} (nothing that was read is lost)"
            )


def input_names(inputs: Sequence[Input], source: int) -> dict[int, str]:
    """What to call the inputs of a source in messages, by their numbers."""
    own = [entry for entry in inputs if entry.source == source]
    return {number: shown(entry.location) for number, entry in enumerate(own)}


def report_lines(
    found: Sequence[LeftOut], examples: Mapping[str, str], counts: Mapping[str, int], inputs: Sequence[Input]
) -> Iterator[str]:
    """What the end of a build reports: records without text by file and reason, then documents dropped by reason.

    Args:
        counts: those of the manifest.
        examples: a file for each reason to drop a document.
    """
    for part in found:
        first, *rest = left_out_lines(part, input_names(inputs, part.source))
        yield f"warning: {first}" if part.share > _WARNED else first
        yield from rest
    reasons = {file.reason for part in found for file in part.files}
    unread = {reason: sum(f.count for part in found for f in part.files if f.reason == reason) for reason in reasons}
    dropped = []
    for name, count in counts.items():
        if name in _WORDS or name.startswith("filter_"):
            number = count - unread.get({"too_short": "empty", "too_long": "oversized"}.get(name, ""), 0)
            if number > 0:
                where = f" (such as one of {shown(examples[name])})" if name in examples else ""
                dropped.append(f"{number:,} {_WORDS.get(name, f'by clean.filters {name[7:]}')}{where}")
    if dropped:
        yield f"dropped as set: {', '.join(dropped)}"
