"""First weights of the networks from what ``model.init_from`` names, and a table of what became of each part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from electra_scale.model.architectures.architecture import Network
from electra_scale.model.electra import Electra
from electra_scale.model.hf import import_checkpoint, tokenizer_differs
from electra_scale.model.starts.source import FORMS, RunSource, Source, Taken, TransformersSource
from electra_scale.recipe.model import InitNetworks
from electra_scale.recipe.phases import Phase

_NETWORKS: tuple[Network, ...] = ("discriminator", "generator")
_SHOWN = 3


@dataclass(frozen=True)
class Row:
    """A part of the model and what it starts from; ``source`` is empty where it starts fresh."""

    part: str
    parameters: int
    source: str
    notes: tuple[str, ...] = ()


@dataclass
class Start:
    """What a run starts from: a row for each part, and what of the source nothing has taken, in parameters by name."""

    name: str
    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def fresh(self) -> set[str]:
        """Parts with the seed's first weights."""
        return {row.part for row in self.rows if not row.source}

    def lines(self) -> list[str]:
        """For people: a table."""
        width = max(len(row.part) for row in self.rows)
        lines = [f"weights start from {self.name}"]
        for row in self.rows:
            what = ", ".join((row.source, *row.notes)) if row.source else ", ".join(("fresh", *row.notes))
            lines.append(f"  {row.part:<{width}}  {row.parameters:>13,}  {what}")
        if self.left_out:
            some = ", ".join(list(self.left_out)[:_SHOWN])
            more = ", ..." if len(self.left_out) > _SHOWN else ""
            total = sum(self.left_out.values())
            lines.append(f"  {'left out':<{width}}  {total:>13,}  {len(self.left_out)} weights there: {some}{more}")
        return lines

    def record(self) -> dict[str, Any]:
        """For ``init_from.json``."""
        return {
            "init_from": self.name,
            "parts": {
                row.part: {"parameters": row.parameters, "from": row.source or None, "notes": list(row.notes)}
                for row in self.rows
            },
            "left_out": self.left_out,
        }


def start_from_folder(
    folder: Path,
    networks: InitNetworks,
    electra: Electra,
    vocabulary: Mapping[str, int],
    where: str,
    log: Callable[[str], None],
) -> Start:
    """Load what transformers saved: an export's ``discriminator`` and ``generator``, one of the two, or one model.

    Args:
        folder: of these folders, or of one model.
        networks: which of ours start there; ``auto`` for those that the folder holds. One masked language model is for
            both; of a discriminator's sizes it must be, and a generator of other widths starts fresh. The generator may
            have fewer layers than it.
        electra: gets the weights, in place.
        vocabulary: token to id of the store ``where``, which must be the checkpoint's.
        log: gets warnings.

    Raises:
        UserError: in one line, what of the folder cannot be read, is missing or does not fit.
    """
    found: dict[Network, Path] = {
        network: folder / network for network in _NETWORKS if (folder / network / "config.json").is_file()
    }
    if not found and not (folder / "config.json").is_file():
        raise UserError(
            f"model.init_from: {folder} holds neither config.json nor discriminator/ or generator/ with one; give a "
            "folder that transformers saved, an export, or a run folder"
        )
    folders = sorted({*found.values()}) or [folder]
    same: dict[Path, bool] = {}
    for one in folders:
        line = tokenizer_differs(one, vocabulary, where)
        same[one] = line is None
        if line is not None:
            log(f"warning: {line}")
    kind = electra.architecture.transformers_config("discriminator").model_type
    if len(found) == 2 and networks in ("auto", "both") and FORMS[kind].folded:
        import_checkpoint(found["discriminator"], found["generator"], electra)
        return Start(str(folder), [_row(electra, part, f"{folder}", []) for part in _parts(electra)])
    opened: dict[Path, Source] = {one: TransformersSource(one, electra, same[one]) for one in folders}
    sources: dict[Network, Source] = {network: opened[found.get(network, folders[0])] for network in _NETWORKS}
    return start(str(folder), sources, networks, electra, log, named=set(found))


def start_from_run(name: str, theirs: Electra, phase: Phase, networks: InitNetworks, electra: Electra) -> Start:
    """Load the networks of a run's checkpoint: both of the joint phase, else what learned masked prediction, for both.

    Of a run of masked prediction alone that is as of one model of transformers; of a generator's warm-up it is the
    generator, so ours must fit. Raises UserError if they do not fit.
    """
    source = RunSource(name, theirs, electra, phase == "joint")
    named: dict[Phase, set[Network]] = {"joint": {"discriminator", "generator"}, "generator_warmup": {"generator"}}
    own = named.get(phase, set())
    return start(name, dict.fromkeys(_NETWORKS, source), networks, electra, lambda line: None, named=own)


def start(
    name: str,
    sources: Mapping[Network, Source],
    networks: InitNetworks,
    electra: Electra,
    log: Callable[[str], None],
    named: set[Network],
) -> Start:
    """Give the networks the weights of their sources. ``named``: networks whose source is there for them alone."""
    wanted: dict[Network, Taken] = {}
    reasons: dict[str, str] = {}
    for network in _NETWORKS:
        if network == "generator" and electra.generator is None:
            continue
        chosen = networks in ("both", network)
        if not chosen and networks != "auto":
            reasons[network] = f"model.init_networks is {networks}"
            continue
        source, own = sources[network], network in named
        problems = source.problems(network, cut=network == "generator" and not own)
        # What must start there if nothing says which: what is named so, or of one model the discriminator.
        needed = chosen or own or (network == "discriminator" and not named)
        if problems and needed:
            raise UserError(
                f"checkpoint {source.name!r} does not fit the model: {'; '.join(problems)}; make the model's sizes "
                "those of the checkpoint"
            )
        if problems:
            reasons[network] = "; ".join(problems)
            continue
        # A discriminator without a head of its own starts with a fresh one; a generator is nothing without it.
        taken = source.take(network, head=own or (chosen and network == "generator"))
        if network == "generator" and not needed and not taken.head:
            reasons[network] = f"{source.name} predicts no masked tokens"
            continue
        wanted[network] = taken
    if not wanted:
        raise UserError(f"nothing starts from {name}: {'; '.join(reasons.values())}")
    weights: dict[str, Tensor] = {}
    for network, taken in wanted.items():
        for key, value in (taken.encoder | taken.head).items():
            if key not in weights:
                weights[key] = value
            elif not torch.equal(weights[key], value):
                log(
                    f"warning: {key} of the {network} differs from the discriminator's by up to "
                    f"{(weights[key] - value).abs().max().item():.3g}; the latter is used"
                )
    with torch.no_grad():
        parameters = dict(electra.named_parameters())
        for key, value in weights.items():
            parameters[key].copy_(value)
    rows = [_row_of(electra, part, wanted, reasons) for part in _parts(electra)]
    left_out: dict[str, int] = {}
    for source in sources.values():
        left_out |= source.left_out()
    return Start(name, rows, left_out)


def _parts(electra: Electra) -> list[str]:
    found = ["embeddings"]
    for network in _NETWORKS:
        if network == "discriminator" or electra.generator is not None:
            found += [network, f"{network}_head"]
    return found


def _row_of(electra: Electra, part: str, wanted: Mapping[Network, Taken], reasons: Mapping[str, str]) -> Row:
    if part == "embeddings":
        taken = next(iter(wanted.values()))
        return _row(electra, part, taken.origin, [cut for cut in taken.cuts if " rows of " in cut])
    network: Network = "generator" if part.startswith("generator") else "discriminator"
    found = wanted.get(network)
    if found is None or (part.endswith("_head") and not found.head):
        reason = reasons.get(network) if not part.endswith("_head") else None
        return _row(electra, part, "", [reason] if reason else [])
    notes = [] if part.endswith("_head") else [cut for cut in found.cuts if " rows of " not in cut]
    return _row(electra, part, found.origin, notes)


def _row(electra: Electra, part: str, source: str, notes: list[str]) -> Row:
    count = sum(parameter.numel() for parameter in electra.get_submodule(part).parameters())
    return Row(part, count, source, tuple(notes))
