"""Lines of JSON objects that a user names: the objects, or what is wrong with which line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError


def json_objects(lines: Iterable[str], path: Path) -> Iterator[dict[str, Any]]:
    """The objects of the lines of ``path``; empty lines are left out. Raises UserError for one that is no object."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not an object; write one JSON object a line")
        yield row
