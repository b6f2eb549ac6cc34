"""Rows of JSON-lines files that a user names, gzip'ed or not, and one line for what is wrong with them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.json_lines import json_objects

SUFFIXES = (".jsonl", ".jsonl.gz")


def files_of(folder: Path) -> list[Path]:
    """The JSON-lines files in a folder, by name. Raises UserError if it is not a folder or has none."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; name a folder with files that end in .jsonl or .jsonl.gz")
    try:
        found = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and path.is_file())
    except OSError as error:
        raise UserError(f"cannot read the folder {folder} ({error.strerror}); check its permissions") from error
    if not found:
        raise UserError(f"{folder} holds no file that ends in .jsonl or .jsonl.gz; name a folder that does")
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; empty lines are left out.

    Raises UserError if it can't be read, has a line that is not a JSON object, or has no row.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.name.endswith(".gz") else data).decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read {path} ({reason}); name a JSON-lines file that is whole") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}); restore it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start:,}); write it in UTF-8") from error
    found = list(json_objects(text.split("\n"), path))
    if not found:
        raise UserError(f"{path} has no row; name a file with at least one")
    return found


def text_in(row: dict[str, Any], names: Sequence[str], where: str) -> list[str]:
    """The texts of a row's columns. Raises UserError if one is missing or not text."""
    found = []
    for name in names:
        if name not in row:
            raise UserError(f"{where} has no column {name!r}; it has {', '.join(map(repr, row)) or 'none'}")
        if not isinstance(row[name], str) or not row[name].strip():
            raise UserError(
                f"{where} has {str(row[name])[:40]!r} in column {name!r}, where a text is expected; correct it"
            )
        found.append(row[name])
    return found
