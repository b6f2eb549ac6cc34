"""What the sampler replaces: rows of held-out text with the draws of a checkpoint and the discriminator's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.places.json_file import read_record, write_record
from electra_scale.data.loader import open_loader
from electra_scale.data.store import Store, special_tokens
from electra_scale.inside.looked import Candidate, Looked, MaskedPosition
from electra_scale.inside.opening import open_run
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder

ROWS, TOKENS, BEST = 4, 64, 5
"""Rows that are shown, tokens of each at most, and candidates of a position."""


@dataclass(frozen=True)
class Shown:
    """A token of the text. ``drawn``: what took its place, None where nothing was drawn. ``score``: the probability
    that the discriminator gives to "replaced". ``special``: not of the text, such as [SEP]."""

    token: str
    drawn: str | None
    replaced: bool
    score: float | None
    special: bool


@dataclass(frozen=True)
class Choice:
    """A token that a masked position could get, with p, q and their ratio, as far as the sampler has them."""

    token: str
    p: float | None
    q: float | None
    hardness: float | None


@dataclass(frozen=True)
class Place:
    """A masked position: the original, what was drawn, and the likeliest under q."""

    original: Choice
    drawn: Choice
    best: tuple[Choice, ...]


@dataclass(frozen=True)
class Example:
    """The beginning of a row; ``left_out``: tokens of it that are not shown."""

    tokens: tuple[Shown, ...]
    places: tuple[Place, ...]
    left_out: int


@dataclass(frozen=True)
class Examples:
    """Rows of a store's split through a checkpoint.

    ``draws`` says how its replacements are drawn, ``notes`` what cannot be seen and why.
    """

    step: int
    manifest: str
    split: str
    draws: str
    rows: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    version: int = 1


def examples_of(run: Path) -> Examples:
    """What the newest checkpoint of a run replaces in rows of held-out text, from ``RUN/inside/`` or computed now.

    Raises:
        UserError: there is no checkpoint of the joint phase, it or the store cannot be opened, or it draws nothing.
    """
    folder = RunFolder(run)
    recipe = recipe_of_run(folder.recipe)
    tag = checkpoint.tag_at(folder.checkpoints, None)
    step = checkpoint.read_state(folder.checkpoints, tag).step
    kept = run / "inside" / f"report-{tag}.json"
    manifest = read_record(folder.data, lambda content: str(content["manifest"]), advice="restore it")
    try:
        found = read_record(kept, _decode, advice="delete it")
    except UserError:
        found = None
    if found is not None and (found.step, found.manifest) == (step, manifest):
        return found
    store = Store(recipe.data.store, recipe.data.cache)
    if manifest is not None and store.manifest.fingerprint != manifest:
        raise UserError(
            f"store {store.url} is {store.manifest.fingerprint}, the run was trained on {manifest}; put that one there"
        )
    split = "heldout" if store.manifest.split("heldout") else "train"
    inside = open_run(run, step)
    loader = open_loader(recipe, store, split, special_tokens(store.tokenizer_dir), training=False)
    looked = [
        inside.look_at(loader.rows(np.array([row]), recipe.data.mask_share), best=BEST)
        for row in range(min(ROWS, loader.samples))
    ]
    notes = tuple(dict.fromkeys([*inside.about.notes, *(note for each in looked for note in each.notes)]))
    found = Examples(step, store.manifest.fingerprint, split, inside.about.draws, tuple(map(_example, looked)), notes)
    try:
        kept.parent.mkdir(exist_ok=True)
        write_record(kept, asdict(found))
    except (OSError, UserError):
        # A run folder of somebody else may be read only; the page does not need the file.
        pass
    return found


def _example(looked: Looked) -> Example:
    tokens = tuple(
        Shown(token.token, token.drawn, token.replaced, token.score, not token.maskable)
        for token in looked.tokens[:TOKENS]
    )
    places = tuple(_place(position) for position in looked.positions if position.index < TOKENS)
    return Example(tokens, places, len(looked.tokens) - len(tokens))


def _place(position: MaskedPosition) -> Place:
    best = sorted(position.candidates, key=lambda one: -(one.q or 0.0))[:BEST]
    return Place(_choice(position.original), _choice(position.drawn), tuple(map(_choice, best)))


def _choice(found: Candidate) -> Choice:
    return Choice(found.token, found.p, found.q, found.hardness)


def _decode(content: dict[str, Any]) -> Examples:
    rows = tuple(
        Example(
            tuple(Shown(**token) for token in row["tokens"]),
            tuple(
                Place(Choice(**place["original"]), Choice(**place["drawn"]), _choices(place["best"]))
                for place in row["places"]
            ),
            int(row["left_out"]),
        )
        for row in content["rows"]
    )
    return Examples(
        int(content["step"]),
        str(content["manifest"]),
        str(content["split"]),
        str(content["draws"]),
        rows,
        tuple(str(note) for note in content["notes"]),
    )


def _choices(found: Sequence[dict[str, Any]]) -> tuple[Choice, ...]:
    return tuple(Choice(**one) for one in found)
