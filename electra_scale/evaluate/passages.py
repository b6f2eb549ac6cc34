"""Passages of a text with masked positions, the same for every model that has the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from electra_scale.data.heldout_text import heldout_documents
from electra_scale.data.masking import choose_positions
from electra_scale.data.noise import generator_key, uniforms
from electra_scale.data.store import Store
from electra_scale.evaluate.networks import Network
from electra_scale.evaluate.rows import SUFFIXES, read_rows, text_in


@dataclass(frozen=True)
class Masking:
    """Which passages are read and which of their tokens are masked; a function of ``seed``.

    At most ``passages``, of ``length`` tokens with [CLS] and [SEP]; ``share`` of them are masked, at least one in each.
    """

    passages: int = 512
    length: int = 128
    share: float = 0.15
    seed: int = 0

    def check(self) -> None:
        """Raise UserError for what can't be."""
        if self.passages < 1:
            raise UserError(f"--passages is {self.passages}; it must be at least 1")
        if self.length < 4:
            raise UserError(f"--length is {self.length}; it must be at least 4 tokens, [CLS] and [SEP] included")
        if not 0 < self.share < 1:
            raise UserError(f"--mask-share is {self.share}; it must lie between 0 and 1")


@dataclass(frozen=True)
class Passage:
    """Token ids with special tokens; ``masked`` (M,) are positions in them, ``uniform`` (M,) numbers for draws there,
    ``own`` the positions of the text's own tokens."""

    ids: list[int]
    own: list[int]
    masked: NDArray[np.int64]
    uniform: NDArray[np.float64]


def read_documents(name: str) -> list[str]:
    """The documents of a text that a user names: a store's held-out text, a .jsonl file's column ``text``, or a text
    file with blank lines between documents.

    Raises UserError if it can't be read or has no text.
    """
    path = Path(name)
    if name.startswith("s3://") or (path / "manifest.json").is_file():
        store = Store(name)
        if not store.manifest.split("heldout"):
            raise UserError(f"store {store.url} has no held-out text; name another text")
        return heldout_documents(store)
    if path.is_dir():
        raise UserError(f"{path} is a folder and not a store (no manifest.json); name a store or a file")
    if path.name.endswith(SUFFIXES):
        return [text_in(row, ("text",), f"row {number} of {path}")[0] for number, row in enumerate(read_rows(path), 1)]
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); name a store, a .jsonl file or a text file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start:,}); write it in UTF-8") from error
    found = [part for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]
    if not found:
        raise UserError(f"{path} has no text; name another file")
    return found


def make_passages(network: Network, documents: Sequence[str], masking: Masking) -> list[Passage]:
    """Passages of the documents as the network reads them.

    Which pieces of which documents, which positions and which numbers follow from the seed, the number of the passage
    and the position alone. Raises UserError if there is nothing to mask.
    """
    if network.tokenizer.cls_token_id is None or network.tokenizer.sep_token_id is None:
        raise UserError(
            f"the tokenizer of {network.name} has no [CLS] and [SEP], between which a passage stands; name another"
        )
    longest = min(masking.length, network.longest)
    # Documents come in an order that follows from their text, so that the first passages are from anywhere.
    order = sorted(documents, key=lambda text: (generator_key(masking.seed, "passages", text), text))
    found: list[Passage] = []
    for piece in _pieces(network, order, longest):
        if len(found) == masking.passages:
            break
        found.append(_masked(network, piece, len(found), longest, masking))
    if not found:
        raise UserError(
            f"the text has no piece of which {network.name} could read more than one token; name a longer text"
        )
    return found


def _pieces(network: Network, documents: Sequence[str], longest: int) -> Iterator[list[int]]:
    for text in documents:
        ids = network.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for first in range(0, len(ids), longest - 2):
            piece = ids[first : first + longest - 2]
            # The rest of a document may be too short to predict a token from.
            if len(piece) >= min(8, longest - 2):
                yield piece


def _masked(network: Network, piece: list[int], number: int, longest: int, masking: Masking) -> Passage:
    ids = [network.tokenizer.cls_token_id, *piece, network.tokenizer.sep_token_id]
    special = set(network.tokenizer.all_special_ids)
    row = np.array([number], dtype=np.int64)
    maskable = np.array([[token not in special for token in ids]])
    order, numbers = (
        uniforms(masking.seed, np.zeros_like(row), row, longest, purpose)[:, : len(ids)]
        for purpose in ("evaluation mask", "evaluation draw")
    )
    masked = np.flatnonzero(choose_positions(maskable, order, masking.share)[0])
    return Passage(ids, np.flatnonzero(maskable[0]).tolist(), masked, numbers[0][masked])


def describe(name: str, masking: Masking) -> dict[str, object]:
    """Settings for an evaluation's file."""
    return {"text": name, **asdict(masking)}
