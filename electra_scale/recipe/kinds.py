"""The methods that a recipe can choose, by the seam that they fit: a new method is one file and a line here.

A method is named and not imported, since the recipe stands below all of them: its module is loaded when a recipe
chooses it. So a recipe is read without torch as long as its methods keep their settings in this folder.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any

from data_pipeline.errors import UserError


@dataclass(frozen=True)
class Kind:
    """Where a method's settings (a dataclass of the keys that a recipe may give) and the method itself are defined.

    Both are written ``module:name``. A method is called as its seam's ``build`` says.
    """

    settings: str
    method: str


_SETTINGS, _PACKAGE = "electra_scale.recipe", "electra_scale"

SEAMS: dict[str, dict[str, Kind]] = {
    "architecture": {
        "bert": Kind(f"{_SETTINGS}.model:BertSettings", f"{_PACKAGE}.model.architectures.bert:BertArchitecture"),
        "modern": Kind(
            f"{_SETTINGS}.model:ModernSettings", f"{_PACKAGE}.model.architectures.modern:ModernArchitecture"
        ),
    },
    "sharing": {
        "tied": Kind(f"{_SETTINGS}.model:TiedSettings", f"{_PACKAGE}.model.sharing.tied:TiedEmbeddings"),
    },
    "corruption": {
        "generator": Kind(
            f"{_SETTINGS}.corruption:GeneratorSettings", f"{_PACKAGE}.corruption.generator:GeneratorCorruption"
        ),
        "random": Kind(f"{_PACKAGE}.corruption.random:RandomSettings", f"{_PACKAGE}.corruption.random:RandomTokens"),
    },
    "task": {
        "replaced_tokens": Kind(
            f"{_SETTINGS}.task:ReplacedTokensSettings", f"{_PACKAGE}.tasks.replaced_tokens:ReplacedTokens"
        ),
        "mlm": Kind(f"{_SETTINGS}.task:MaskedTokensSettings", f"{_PACKAGE}.tasks.masked_tokens:MaskedTokens"),
    },
    "optimizer": {
        "adamw": Kind(f"{_SETTINGS}.optimizer:AdamWSettings", f"{_PACKAGE}.optim.adamw:AdamW"),
    },
}
"""By section of the recipe; the first kind of each is the default."""


def default_kind(section: str) -> str:
    """The kind that a recipe has which does not choose one."""
    return next(iter(SEAMS[section]))


def settings_class(section: str, kind: str) -> type[Any]:
    """The dataclass of a kind's settings; raises UserError for a kind that is not known, naming the nearest."""
    found: type[Any] = _load(_kind(section, kind).settings)
    return found


def method_of(section: str, kind: str) -> Any:
    """The method of a kind; raises UserError for a kind that is not known."""
    return _load(_kind(section, kind).method)


def _kind(section: str, kind: str) -> Kind:
    known = SEAMS[section]
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"{section}.kind is {kind!r}, which is not a known kind; {advice}")
    return known[kind]


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
