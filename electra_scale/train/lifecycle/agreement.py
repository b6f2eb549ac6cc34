"""Before anything is written: do all ranks have the same data, settings and program? If not, all refuse."""

from __future__ import annotations

import hashlib
import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.store.manifest import manifest_bytes
from electra_scale.cluster.ranks import Ranks
from electra_scale.cluster.software import source_hash, versions_of
from electra_scale.data.store import Store
from electra_scale.recipe.deepspeed_json import read_deepspeed_json
from electra_scale.recipe.parse import recipe_to_dict
from electra_scale.recipe.recipe import Recipe

_OF_EACH_HOST = ("data.store", "data.cache", "deepspeed")
"""Settings that say where something lies: it may lie elsewhere on each host, and what lies there is compared."""

_MOST_NAMED = 4
_LONGEST = 60
_UNREADABLE = "unreadable"

Facts = dict[str, str]
"""What must be the same on all ranks: a short text of each value, by its name for people."""


def open_inputs(recipe: Recipe, ranks: Ranks, **options: object) -> tuple[dict[str, Any], Store]:
    """The DeepSpeed JSON and the store that a recipe names, where all ranks have the same; every rank calls it.

    Stores are compared by their manifests, so that each host may have a copy. ``options`` are those of this start that
    decide what the ranks do together.

    Raises:
        UserError: on every rank, the ranks do not agree, or none of them can read the store or the JSON.
    """
    deepspeed_json: dict[str, Any] = {}
    store: Store | None = None
    errors: dict[str, str] = {}
    try:
        deepspeed_json = read_deepspeed_json(recipe.deepspeed)
    except UserError as error:
        errors["DeepSpeed JSON"] = str(error)
    try:
        store = Store(recipe.data.store, recipe.data.cache)
    except UserError as error:
        errors["store"] = str(error)
    facts = facts_of(recipe, deepspeed_json, store) | {name: _short(value) for name, value in options.items()}
    facts["device"] = ranks.device.type
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    if len(set(ranks.gather(digest))) > 1:
        found = ranks.gather((facts, errors, socket.gethostname()))
        raise UserError(disagreement([each[0] for each in found], [each[1] for each in found], [e[2] for e in found]))
    if errors or store is None:
        raise UserError("; ".join(errors.values()))
    return deepspeed_json, store


def facts_of(recipe: Recipe, deepspeed_json: Mapping[str, Any], store: Store | None) -> Facts:
    """What this rank reads and runs."""
    facts = {"python" if name == "python" else f"version of {name}": text for name, text in versions_of().items()}
    facts["source of electra-scale"] = source_hash()
    facts["store"] = _UNREADABLE
    if store is not None:
        facts["store"] = f"manifest {hashlib.sha256(manifest_bytes(store.manifest)).hexdigest()[:12]}"
    facts["DeepSpeed JSON"] = "readable" if deepspeed_json else _UNREADABLE
    for name, value in _flat(recipe_to_dict(recipe)):
        if not any(name == setting or name.startswith(f"{setting}.") for setting in _OF_EACH_HOST):
            facts[f"recipe's {name}"] = _short(value)
    for name, value in _flat(deepspeed_json):
        facts[f"DeepSpeed JSON's {name}"] = _short(value)
    return facts


def disagreement(facts: list[Facts], errors: list[dict[str, str]], hosts: list[str]) -> str:
    """The sentence that names what differs, and the ranks that have something else than most, or than rank 0.

    All three by rank; there is a difference.
    """
    names = {name: None for rank in facts for name in rank}
    parts = []
    unreadable = tuple(f"{name}'s " for rank in facts for name, value in rank.items() if value == _UNREADABLE)
    for name in names:
        if name.startswith(unreadable):
            continue
        values = [rank.get(name, "not set") for rank in facts]
        counts = Counter(values)
        usual = max(counts, key=lambda value: (counts[value], value == values[0]))
        odd = [rank for rank, value in enumerate(values) if value != usual]
        if not odd:
            continue
        named = []
        for rank in odd[:_MOST_NAMED]:
            reason = f" ({errors[rank][name]})" if name in errors[rank] else ""
            named.append(f"{values[rank]} on rank {rank} ({hosts[rank]}){reason}")
        more = f" and otherwise on {len(odd) - _MOST_NAMED} more" if len(odd) > _MOST_NAMED else ""
        like = values.index(usual)
        others = counts[usual] - 1
        reason = f" ({errors[like][name]})" if name in errors[like] else ""
        company = f" and {others} more" if others else ""
        parts.append(f"{name} is {', '.join(named)}{more}, but {usual} on rank {like} ({hosts[like]}){company}{reason}")
    left = len(parts) - _MOST_NAMED
    text = "; ".join(parts[:_MOST_NAMED]) + (f"; and {left} more differences" if left > 0 else "")
    return f"the ranks do not agree: {text}; give all of them the same, then start again"


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted names."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{before}{key}.")
        else:
            yield f"{before}{key}", item


def _short(value: object) -> str:
    """A value for people, the same for equal values and for no others."""
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _LONGEST else f"{text[:40]}... {hashlib.sha256(text.encode()).hexdigest()[:8]}"
