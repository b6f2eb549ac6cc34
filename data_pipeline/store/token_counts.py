"""``token_counts.npy``: how often each token occurs in the split train."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from data_pipeline.places.place import Place
from data_pipeline.store.manifest import FileEntry, Manifest

TOKEN_COUNTS_NAME = "token_counts.npy"

# Room for the header of a one-dimensional array, many times over.
_MOST_HEADER_BYTES = 1024


def load_token_counts(place: Place, manifest: Manifest) -> npt.NDArray[np.int64]:
    """(vocab_size,) occurrences of each token id in the split train.

    Raises:
        UserError: the file is missing or unreadable, not an int64 array of that shape, or not the one that the
            manifest lists.
    """
    size = manifest.tokenizer.vocab_size
    name = manifest.token_counts.name
    data = place.read_range(name, 0, 8 * size + _MOST_HEADER_BYTES)
    where = f"{place.url}/{name}"
    try:
        file = io.BytesIO(data)
        # The header is compared before an array is made, so that a false one can't ask for memory.
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"format version {version[0]}.{version[1]}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, EOFError, OverflowError, RecursionError, MemoryError) as error:
        raise UserError(f"{where} can't be read ({error}): restore it or build the store again") from error
    begin = file.tell()
    if shape != (size,) or dtype != np.dtype("<i8") or len(data) - begin != 8 * size:
        raise UserError(f"{where} does not hold {size:,} int64 values: restore it or build the store again")
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.token_counts.sha256:
        raise UserError(
            f"{where} has SHA-256 {found}, the manifest says {manifest.token_counts.sha256}: "
            "restore it or build the store again"
        )
    return np.frombuffer(data, "<i8", offset=begin).astype(np.int64)


def put_token_counts(place: Place, token_counts: npt.NDArray[np.int64]) -> FileEntry:
    """Write the counts (vocab_size,) of a store, and describe the file for its manifest."""
    buffer = io.BytesIO()
    np.save(buffer, token_counts)
    place.put(TOKEN_COUNTS_NAME, buffer.getvalue())
    return FileEntry(TOKEN_COUNTS_NAME, hashlib.sha256(buffer.getvalue()).hexdigest())
