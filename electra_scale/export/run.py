"""Export: a checkpoint of a run goes in, Hugging Face checkpoints of both networks come out."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.new_folder import free_folder
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Place
from data_pipeline.places.scratch import scratch_folder
from electra_scale.export.card import check_licence, parameters_in, write_card
from electra_scale.export.network_card import NetworkCard
from electra_scale.export.run_facts import RunFacts, facts_of_run
from electra_scale.model.architectures.architecture import Network
from electra_scale.model.electra import Electra
from electra_scale.model.hf import export, networks_of
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.networks import load_module


def export_run(
    run: Path, out: str | Path, step: int | None = None, licence: str | None = None
) -> tuple[int, list[str]]:
    """Write ``out/discriminator`` and ``out/generator`` from a run's newest checkpoint, or from that of ``step``.

    ``out`` is a folder or ``s3://bucket/prefix``. Each network has a model card, which names ``licence`` if one is
    given. Returns the step of the checkpoint, and the names of the networks: a run without a generator has the
    discriminator only, and of a checkpoint of the generator's warm-up the generator alone is written, since nothing
    else is trained there.

    Raises UserError if there is no such checkpoint, or if ``out`` is not empty.
    """
    place = open_place(out)
    if not isinstance(place, FolderPlace):
        _require_empty(place)
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as temporary:
            written = export_run(run, Path(temporary) / "export", step, licence)
            upload(Path(temporary) / "export", place)
        return written
    # Before the weights are read, which may take minutes.
    check_licence(licence)
    free_folder(place.path, "export")
    folder = RunFolder(run)
    recipe = recipe_of_run(folder.recipe)
    tag = checkpoint.tag_at(folder.checkpoints, step)
    module = load_module(folder, recipe, tag, networks_only=True, warmup=True)
    reached = checkpoint.step_of(tag)
    facts = facts_of_run(folder, recipe, [reached])
    networks = trained_networks(module.electra, facts.state.phase)
    export_networks(module.electra, folder, place.path, facts, licence, networks)
    return reached, list(networks)


def trained_networks(electra: Electra, phase: str) -> list[Network]:
    """The networks that a checkpoint of a phase has trained: of the generator's warm-up the generator alone."""
    return networks_of(electra) if phase == "joint" else ["generator"]


def export_networks(
    electra: Electra, folder: RunFolder, out: Path, facts: RunFacts, licence: str | None, networks: Sequence[Network]
) -> None:
    """Write networks of a run into a folder, each with its card."""

    def describe(part: Path, network: Network) -> None:
        kind = electra.architecture.hugging_face[network]
        write_card(part, NetworkCard(facts, network, kind, parameters_in(part), licence))

    export(electra, folder.tokenizer, out, describe, networks)


def upload(folder: Path, place: Place) -> None:
    """Copy the files of a folder to ``place``, each ``config.json`` last, so that half an upload cannot be loaded.

    One that fails takes back what it has copied, as far as the place lets it.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    done: list[str] = []
    try:
        for path in sorted(files, key=lambda path: (path.name == "config.json", path)):
            done.append(path.relative_to(folder).as_posix())
            place.put_file(done[-1], path)
    except BaseException:
        for name in done:
            with contextlib.suppress(UserError):
                place.delete(name)
        raise


def _require_empty(place: Place) -> None:
    taken = next(iter(place.list()), None)
    if taken is not None:
        raise UserError(f"{place.url} already holds {taken.name}; choose an empty prefix")
