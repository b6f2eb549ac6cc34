"""The special tokens of a tokenizer by what they are for: padding, start, end, mask, unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from data_pipeline.errors import UserError

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's names, which a vocabulary that is trained here has at the ids 0 to 4."""

NOTHING = -1
"""In place of the id of the unknown token, where a tokenizer has none."""

_NAMES = {
    "pad": (PAD, "<pad>"),
    "cls": (CLS, "<cls>", "<s>"),
    "sep": (SEP, "<sep>", "</s>"),
    "mask": (MASK, "<mask>"),
    "unk": (UNK, "<unk>"),
}
"""Names that are known without a configuration, the likeliest first."""


ROLES = tuple(f"{role}_token" for role in _NAMES)
"""The roles as transformers calls them."""


@dataclasses.dataclass(frozen=True)
class Roles:
    """Names of the special tokens. Rows start with ``cls`` and end with ``sep``; ``unk`` is None if there is none."""

    pad: str = PAD
    cls: str = CLS
    sep: str = SEP
    mask: str = MASK
    unk: str | None = UNK

    def named(self) -> dict[str, str]:
        """As transformers names them: ``mask_token`` and so on."""
        return {f"{role}_token": name for role, name in dataclasses.asdict(self).items() if name is not None}

    def names(self) -> list[str]:
        """All of them that there are."""
        return list(self.named().values())


BERT_ROLES = Roles()


def roles_of(settings: Mapping[str, Any]) -> Roles:
    """The roles in the settings of a build, which have them where they are not BERT's."""
    return Roles(**settings["tokenizer"].get("roles", {}))


def find_roles(has: Callable[[str], bool], named: Mapping[str, Any], where: str) -> Roles:
    """The roles in a vocabulary: as ``named`` (``mask_token`` and so on, as in transformers), else by known names.

    Args:
        has: whether a token is in the vocabulary.

    Raises:
        UserError: a role has no token, or one that is not in the vocabulary.
    """
    found: dict[str, str | None] = {}
    for role, known in _NAMES.items():
        given = named.get(f"{role}_token")
        if isinstance(given, Mapping):
            given = given.get("content")
        found[role] = str(given) if given is not None else next(filter(has, known), None)
    missing = [
        _NAMES[role][0] if name is None else name
        for role, name in found.items()
        if (role != "unk" and name is None) or (name is not None and not has(name))
    ]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)}: training needs tokens for padding, start, end and mask, such as "
            f"{PAD}, {CLS}, {SEP}, {MASK}; add what is missing, name it in tokenizer_config.json (pad_token, "
            "cls_token, sep_token, mask_token), or train a new vocabulary"
        )
    pad, cls, sep, mask = (str(found[role]) for role in ("pad", "cls", "sep", "mask"))
    if len({pad, mask, cls}) < 3 or mask == sep or pad == sep:
        raise UserError(
            f"{where} has one token for two of padding {pad}, start {cls}, end {sep} and mask {mask}: only start and "
            "end may be the same; name another one in tokenizer_config.json"
        )
    return Roles(pad, cls, sep, mask, found["unk"])


def add_special(tokenizer: Tokenizer, names: Iterable[str]) -> None:
    """Make tokens of the vocabulary special ones. What is special already stays as it is, with the blanks it takes."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    known = [name for name in names if tokenizer.token_to_id(name) is not None]
    tokenizer.add_special_tokens([name for name in known if name not in special])
