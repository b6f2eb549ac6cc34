"""Where a network's first weights may come from: a model of transformers, or a checkpoint of a run of ours."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from electra_scale.model.architectures.architecture import Network
from electra_scale.model.electra import Electra
from electra_scale.model.hf import read_config
from electra_scale.model.starts.files import Weights

_LAYER = re.compile(r"\.(layers?)\.(\d+)\.")
_ROWS = ("embeddings.word.weight", "embeddings.position.weight", "embeddings.token_type.weight", "generator_head.bias")
"""Tables with a row for each token, position or type, of which the first ones are taken where there are more."""


def kept_layers(there: int, here: int) -> list[int]:
    """Which layers of a deeper encoder a shallower one takes: evenly spaced, the first and the last among them.

    ``round(i (there - 1) / (here - 1))``, which of 12 for 6 gives 0, 2, 4, 7, 9, 11 as DistilBERT's authors took
    (Sanh et al. 2019); a single layer is the first one.
    """
    return [round(index * (there - 1) / (here - 1)) if here > 1 else 0 for index in range(here)]


def kept_by_kind(there: Sequence[str], here: Sequence[str]) -> list[int]:
    """The same where layers are of several kinds, such as those with a window: of each kind evenly spaced."""
    kept = [0] * len(here)
    for kind in dict.fromkeys(here):
        theirs, ours = ([place for place, one in enumerate(kinds) if one == kind] for kinds in (there, here))
        for place, index in zip(ours, kept_layers(len(theirs), len(ours)), strict=True):
            kept[place] = theirs[index] if theirs else 0
    return kept


@dataclass
class Taken:
    """Weights for one of our networks, under our names: ``encoder`` with the embeddings, ``head`` if there is one.

    ``origin`` says what they are there, ``cuts`` what of them is left out, one phrase each.
    """

    encoder: dict[str, Tensor]
    head: dict[str, Tensor]
    origin: str
    cuts: list[str]


class Source(Protocol):
    """Weights of one model."""

    name: str
    """For messages."""

    def problems(self, network: Network, cut: bool) -> list[str]:
        """What keeps a network of ours from starting there, one phrase each; ``cut``: it may have fewer layers."""
        ...

    def take(self, network: Network, head: bool) -> Taken:
        """The weights for a network. Raises UserError if some are missing; the head's too, if it must be there."""
        ...

    def left_out(self) -> dict[str, int]:
        """Parameters by name that nothing has taken."""
        ...


@dataclass(frozen=True)
class Form:
    """How a type of model in transformers is one that an architecture of ours knows.

    ``ours``: the type whose names the architecture has. ``names``: beginnings of these names, and what this type has
    instead; nothing where it has no such part. ``config``: its configuration in the terms of ``ours``. ``folded``: the
    table of an export may hold a projection, so that a pair of ours has to be taken apart together.
    """

    ours: str
    base: str
    names: tuple[tuple[str, str | None], ...] = ()
    config: Callable[[Any], Any] = copy.copy
    folded: bool = False


def _bert_as_electra(config: Any) -> Any:
    """BERT has no embeddings of another width than its layers."""
    found = copy.copy(config)
    found.embedding_size = config.hidden_size
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        found.hidden_act = f"{config.hidden_act} with {config.position_embedding_type} positions"
    return found


FORMS = {
    "electra": Form("electra", "electra"),
    "bert": Form(
        "electra",
        "bert",
        (
            ("electra.", "bert."),
            ("generator_predictions.dense.", "cls.predictions.transform.dense."),
            ("generator_predictions.LayerNorm.", "cls.predictions.transform.LayerNorm."),
            ("generator_lm_head.", "cls.predictions."),
            ("discriminator_predictions.", None),
        ),
        _bert_as_electra,
    ),
    "modernbert": Form("modernbert", "model", folded=True),
}
"""By type of model: one more is a line here, if an architecture of ours computes the same."""


class TransformersSource:
    """A folder that transformers saved, for networks of ``electra``.

    ``same_tokens``: its tokenizer is known to be the store's, so that rows beyond those of the store's tokens are
    padding. Raises UserError if the folder holds no model, or one of a type that no network of ours is.
    """

    def __init__(self, folder: Path, electra: Electra, same_tokens: bool) -> None:
        self.name = str(folder)
        self.electra = electra
        self.same_tokens = same_tokens
        self.config = read_config(self.name)
        kind = str(self.config.model_type)
        if kind not in FORMS:
            raise UserError(
                f"checkpoint {self.name!r} is of type {kind}, which no start is known for; known: {', '.join(FORMS)}"
            )
        self.form = FORMS[kind]
        self.weights = Weights(folder, self.form.base)
        self._used: set[str] = set()

    def problems(self, network: Network, cut: bool) -> list[str]:
        ours = self.electra.config
        theirs = self.form.config(self.config)
        theirs.model_type = self.form.ours
        for name, here, may_differ in (
            ("max_position_embeddings", ours.max_positions, True),
            ("type_vocab_size", getattr(ours.architecture, "token_types", 0), True),
            ("vocab_size", ours.vocab_size, self.same_tokens),
            ("num_hidden_layers", getattr(ours, network).layers, cut),
        ):
            if may_differ and getattr(theirs, name, 0) > here:
                setattr(theirs, name, here)
        if hasattr(theirs, "layer_types"):
            theirs.layer_types = [self.config.layer_types[index] for index in self._kept(network)]
        if network == "discriminator" and "classifier.weight" not in self.weights:
            theirs.num_labels = 1
        found: list[str] = self.electra.architecture.differences(network, theirs)
        if self.form.folded and getattr(ours, network).hidden != ours.embedding:
            found.append(f"embedding {theirs.hidden_size} there, {ours.embedding} here")
        if network == "generator":
            found += [
                f"its {name} is another matrix than its word embeddings, which the generator's scores are made with"
                for name, same in self._tied().items()
                if name in self.weights and not torch.equal(self.weights[name], self.weights[same])
            ]
        return found

    def take(self, network: Network, head: bool) -> Taken:
        kept, there = self._kept(network), int(self.config.num_hidden_layers)
        parts: dict[bool, dict[str, tuple[str, ...]]] = {True: {}, False: {}}
        for ours, theirs in self.electra.architecture.transformers_names(network).items():
            renamed = [self._renamed(name, kept) for name in theirs]
            is_head = ours.startswith(f"{network}_head.")
            if None not in renamed or not is_head:
                parts[is_head][ours] = tuple(name or ours for name in renamed)
        missing = {
            is_head: sorted({one for names in part.values() for one in names if one not in self.weights})
            for is_head, part in parts.items()
        }
        wanted = {one for names in parts[True].values() for one in names}
        # Of a masked language model's head a discriminator's has nothing, or its first layer alone.
        if not head and (set(missing[True]) == wanted or (network == "discriminator" and missing[True])):
            parts[True] = {}
            missing[True] = []
        lacking = [*missing[False], *missing[True]]
        if lacking:
            raise UserError(
                f"checkpoint {self.name!r} lacks {len(lacking)} weights that the {network} needs (first: {lacking[0]})"
                f"; give a whole checkpoint{', with its pre-training head' if missing[True] else ''}"
            )
        cuts: list[str] = []
        if there != len(kept):
            cuts.append(f"layers {', '.join(map(str, kept))} of {there}")
        taken = {flag: {name: self._joined(name, part[name], cuts) for name in part} for flag, part in parts.items()}
        self._used |= {one for part in parts.values() for names in part.values() for one in names}
        return Taken(taken[False], taken[True], f"{self.config.model_type} of transformers", cuts)

    def left_out(self) -> dict[str, int]:
        tied = {name for name, same in self._tied().items() if same in self._used}
        rest = [name for name in self.weights if name not in self._used | tied and not name.endswith("position_ids")]
        return {name: self.weights[name].numel() for name in rest}

    def _kept(self, network: Network) -> list[int]:
        """Their layer for each of ours."""
        here = getattr(self.electra.config, network).layers
        ours = self.electra.architecture.transformers_config(network)
        if hasattr(ours, "layer_types") and hasattr(self.config, "layer_types"):
            return kept_by_kind(self.config.layer_types, ours.layer_types)
        return kept_layers(int(self.config.num_hidden_layers), here)

    def _joined(self, ours: str, names: tuple[str, ...], cuts: list[str]) -> Tensor:
        """One of our parameters from its parts in the file, cut to our rows where there are more."""
        found = torch.cat([self.weights[name] for name in names]).float()
        wanted = self.electra.get_parameter(ours).shape
        if ours in _ROWS and len(found) > wanted[0]:
            if ours != "generator_head.bias":
                cuts.append(f"the first {wanted[0]:,} of {len(found):,} rows of {ours.split('.')[1]}")
            found = found[: wanted[0]]
        if found.shape != wanted:
            raise UserError(
                f"checkpoint {self.name!r} holds {names[0]} of shape {tuple(found.shape)}, not {tuple(wanted)} as its "
                "configuration says; restore it"
            )
        return found

    def _tied(self) -> dict[str, str]:
        """Weights that are another one, by the other one's name, as this type has them."""
        if self.form.base == "bert":
            return {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}
        return dict(self.electra.architecture.tied["generator"])

    def _renamed(self, name: str, kept: list[int]) -> str | None:
        for ours, theirs in self.form.names:
            if name.startswith(ours):
                if theirs is None:
                    return None
                name = theirs + name.removeprefix(ours)
                break
        return _LAYER.sub(lambda found: f".{found[1]}.{kept[int(found[2])]}.", name)


class RunSource:
    """A checkpoint of a run of ours; ``joint``: both of its networks are trained, else the generator alone."""

    def __init__(self, name: str, theirs: Electra, electra: Electra, joint: bool) -> None:
        self.name = name
        self.theirs = theirs
        self.electra = electra
        self.joint = joint

    def problems(self, network: Network, cut: bool) -> list[str]:
        ours, theirs = self.electra.config, self.theirs.config
        pairs: dict[str, tuple[object, object]] = {
            name: (getattr(theirs, name), getattr(ours, name))
            for name in ("vocab_size", "embedding", "max_positions", "architecture", "sharing")
        }
        pairs[f"model.{network}"] = (getattr(theirs, self._trained(network)), getattr(ours, network))
        if self.theirs.generator is None and network == "generator":
            return ["it has no generator"]
        return [f"{name} {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]

    def take(self, network: Network, head: bool) -> Taken:
        trained = self._trained(network)
        found: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        for name, value in self.theirs.state_dict().items():
            if name.startswith(("embeddings.", f"{trained}.")):
                found[False][name.replace(f"{trained}.", f"{network}.", 1)] = value
            elif name.startswith(f"{network}_head.") and trained == network:
                found[True][name] = value
        return Taken(found[False], found[True], f"the {trained} of a run", [])

    def left_out(self) -> dict[str, int]:
        return {}

    def _trained(self, network: Network) -> Network:
        return network if self.joint else "generator"
