"""A text as a model reads it: token ids, the characters that each stands for, and what is lost on the way."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from data_pipeline.errors import UserError
from data_pipeline.tokenize.description import describe
from data_pipeline.tokenize.panics import panics_as_errors
from data_pipeline.tokenize.roles import Roles
from data_pipeline.tokenize.spelling import Spelling
from electra_scale.data.rows import SpecialTokens

_SHOWN = 40


@dataclass(frozen=True)
class Reading:
    """Token ids with [CLS] in front and [SEP] at the end, the characters of each, and sentences on what was changed."""

    ids: tuple[int, ...]
    sources: tuple[str, ...]
    notes: tuple[str, ...]


class Reader:
    """Reads texts as the pipeline does, where the name of a special token is plain characters.

    ``roles``: the special tokens of the ``tokenizer``. ``longest``: most positions that a text may have.
    """

    def __init__(self, tokenizer: Tokenizer, roles: Roles, longest: int) -> None:
        description = describe(tokenizer)
        self.special = SpecialTokens.of(tokenizer, roles)
        self.longest = longest
        self._names = sorted(description.specials)
        self._unknown = description.unknown
        self._tokens = {index: token for token, index in description.vocabulary.items()}
        self._encoder = description.new_text_encoder()
        self._spelling = Spelling(tokenizer)

    def read(self, text: str) -> Reading:
        """The tokens of a text. Raises UserError for one that is empty, too long or not text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{short(text)!a} is not text in UTF-8; write it in UTF-8") from error
        try:
            with panics_as_errors():
                encoded = self._encoder.encode(text)
        except Exception as error:  # the library raises nothing more specific, and settings are used only here
            raise UserError(f"the tokenizer cannot be used ({error}); restore it") from error
        ids = [self.special.cls, *encoded.ids, self.special.sep]
        if not encoded.ids:
            raise UserError(f'"{short(text.strip())}" has no token to look at; write a sentence')
        if len(ids) > self.longest:
            raise UserError(
                f'"{short(text)}" has {len(ids)} tokens with [CLS] and [SEP], and the model takes at most '
                f"{self.longest}; shorten it"
            )
        sources = ["", *(text[first:last] for first, last in encoded.offsets), ""]
        return Reading(tuple(ids), tuple(sources), tuple(self._notes(text, ids, sources)))

    def token(self, index: int) -> str:
        """A token as people read it, see :class:`Spelling`; a vocabulary may have ids that no token has."""
        found = self._tokens.get(index)
        return f"id {index}" if found is None else self._spelling.shown(found)

    def _notes(self, text: str, ids: list[int], sources: list[str]) -> list[str]:
        found = []
        pieces = [source for index, source in zip(ids, sources, strict=True) if index == self._unknown]
        unknown = list(dict.fromkeys(pieces))
        if unknown:
            some = ", ".join(short(piece) for piece in unknown[:5])
            found.append(
                f"The vocabulary lacks {count(len(unknown), 'piece')} of the text, which the model reads as "
                f"{self.token(self._unknown)}: {some}{' and others' if len(unknown) > 5 else ''}."
            )
        named = [name for name in self._names if name in text]
        if named:
            found.append(
                f"{named[0]} in a text is plain characters, as in training. To mask a word, write the word itself and "
                "choose its position."
            )
        return found


def count(number: int, thing: str) -> str:
    """``1 piece``, ``2 pieces``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def short(text: str) -> str:
    """A text in a message, cut where it is long."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
