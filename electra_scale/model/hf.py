"""Conversion to and from Hugging Face checkpoints: the only place that knows transformers' names.

``export`` writes a folder for each network that its class of transformers opens; ``import_checkpoint`` reads such
folders, or hub ids. Names and configurations are the architecture's.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from data_pipeline.errors import UserError, first_line
from data_pipeline.places.new_folder import new_folder
from data_pipeline.tokenize.panics import panics_as_errors
from electra_scale.model.architectures.architecture import Network
from electra_scale.model.electra import Electra

_SHOWN = 3
"""Tokens that differ, in a message."""

logger = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)


_WORDS = "word.weight"
"""The table of words in an embedding layer of any architecture."""

_LOST = 1e-4
"""Share of a folded matrix beyond which what is lost of it is more than rounding."""


def _transformers_model(model: Electra, network: Network, tokenizer: Any) -> Any:
    """The network as a transformers model in fp32 on the CPU."""
    ours = model.state_dict()
    ours |= {f"embeddings.{name}": value for name, value in model.sharing.exported(network).items()}
    ours = model.architecture.folded(network, {name: value.detach().float().cpu() for name, value in ours.items()})
    theirs: dict[str, Tensor] = {}
    for name, parts in model.architecture.transformers_names(network).items():
        pieces = ours[name].chunk(len(parts))
        theirs.update(zip(parts, pieces, strict=True))
    # transformers fills new models from the global random state; leave that as it was.
    with torch.random.fork_rng(devices=[]):
        config = model.architecture.transformers_config(network)
        for setting, token in model.architecture.token_settings.items():
            setattr(config, setting, getattr(tokenizer, token))
        result: Any = _class_of(model, network)(config)
    for name, same in model.architecture.tied[network].items():
        theirs[name] = theirs[same]
    result.load_state_dict(theirs)
    result.tie_weights()
    return result.eval()


def _class_of(model: Electra, network: Network) -> Any:
    return getattr(transformers, model.architecture.hugging_face[network])


def _copy_tokenizer(tokenizer_dir: Path, folder: Path, max_positions: int, inputs: list[str] | None) -> None:
    """The tokenizer's files, with what transformers must know to cut texts and to build it from its parts."""
    found = [name for name in TOKENIZER_FILES if (tokenizer_dir / name).is_file()]
    if not {"tokenizer.json", "vocab.txt"}.intersection(found):
        raise UserError(
            f"no tokenizer in {tokenizer_dir}: neither tokenizer.json nor vocab.txt is there; "
            "give the folder that the tokenizer was saved to"
        )
    for name in found:
        shutil.copyfile(tokenizer_dir / name, folder / name)
    settings = _read_json(folder / "tokenizer_config.json") if "tokenizer_config.json" in found else {}
    normalizer = _read_json(folder / "tokenizer.json").get("normalizer") if "tokenizer.json" in found else None
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        # Classes that do not take tokenizer.json as it is lower-case unless they are told otherwise.
        settings["do_lower_case"] = normalizer["lowercase"]
        settings["strip_accents"] = normalizer["strip_accents"]
        settings["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    settings["model_max_length"] = max_positions
    if inputs is not None:
        settings["model_input_names"] = inputs
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} of the tokenizer is not valid JSON ({error}); restore it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} of the tokenizer is not a JSON object; restore it")
    return content


def networks_of(model: Electra) -> list[Network]:
    """The networks of a model that an export holds; a corruption without a generator has none."""
    return ["discriminator"] if model.generator is None else ["discriminator", "generator"]


def export(
    model: Electra,
    tokenizer_dir: Path,
    out: Path,
    describe: Callable[[Path, Network], None] = lambda *_: None,
    networks: Sequence[Network] | None = None,
) -> None:
    """Write ``out/discriminator`` and ``out/generator`` as transformers checkpoints with tokenizer, in fp32.

    ``out`` gets all of them or nothing. Their tokenizers cut at the model's ``max_positions``; their configurations
    have the dropout that fine-tuning usually starts with, the model's ``exported_dropout``.

    Args:
        model: any device, any dtype.
        tokenizer_dir: folder with ``tokenizer.json`` or ``vocab.txt`` and what goes with it.
        out: folder to make; it may exist if it is empty.
        describe: adds to the folder of a network what else belongs there, before anybody sees it.
        networks: those to write; all that the model has if not given.

    Raises:
        UserError: ``out`` holds something or can't be written, ``tokenizer_dir`` holds no tokenizer, or the tokenizer
            has more tokens than the model.
    """
    tokenizer_dir, out = Path(tokenizer_dir), Path(out)
    with new_folder(out, "export") as partial:
        for network in networks_of(model) if networks is None else networks:
            folder = partial / network
            folder.mkdir()
            _copy_tokenizer(tokenizer_dir, folder, model.config.max_positions, model.architecture.inputs)
            # AutoTokenizer may need the model type, so a config has to stand there before it is asked.
            model.architecture.transformers_config(network).save_pretrained(folder)
            try:
                with panics_as_errors():
                    tokenizer = AutoTokenizer.from_pretrained(
                        str(folder), local_files_only=True, trust_remote_code=False
                    )
            except Exception as error:  # transformers raises nothing more specific for a bad file
                raise UserError(f"cannot read the tokenizer in {tokenizer_dir}: {first_line(error)}") from error
            if len(tokenizer) > model.config.vocab_size:
                raise UserError(
                    f"the tokenizer in {tokenizer_dir} has {len(tokenizer)} tokens, the model's vocabulary "
                    f"has {model.config.vocab_size}; give the tokenizer that the model was trained with"
                )
            _transformers_model(model, network, tokenizer).save_pretrained(folder)
            describe(folder, network)


@dataclass(frozen=True)
class _Sources:
    discriminator: str
    generator: str | None


def _sources(discriminator: str | Path, generator: str | Path | None) -> _Sources:
    """Allow the folder that ``export`` wrote to stand for both of its parts."""
    root = Path(discriminator)
    if not (root / "config.json").is_file() and (root / "discriminator" / "config.json").is_file():
        if generator is None and (root / "generator" / "config.json").is_file():
            generator = root / "generator"
        discriminator = root / "discriminator"
    return _Sources(str(discriminator), None if generator is None else str(generator))


def read_config(source: str) -> Any:
    """The configuration of a folder or hub id. Raises UserError if there is none to be read."""
    try:
        # Code that comes with a model is not run, and nobody is asked whether it should be.
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a damaged file gives whatever its content leads to
        raise UserError(
            f"cannot read a transformers config from {source!r}: {first_line(error)}; "
            "give a folder with config.json or a hub id"
        ) from error


def _require_fit(source: str, theirs: Any, model: Electra, network: Network) -> None:
    wrong = model.architecture.differences(network, theirs)
    if wrong:
        raise UserError(
            f"checkpoint {source!r} does not fit the model: {'; '.join(wrong)}; "
            "make the model's sizes those of the checkpoint"
        )


def _read_weights(source: str, model: Electra, network: Network, table: Tensor | None = None) -> dict[str, Tensor]:
    """One network's weights under our names, in fp32; ``table`` is what the other's embeddings are."""
    _require_fit(source, read_config(source), model, network)
    kind = _class_of(model, network)
    try:
        loaded, info = kind.from_pretrained(source, output_loading_info=True, trust_remote_code=False)
    except Exception as error:  # a damaged file gives whatever its content leads to
        raise UserError(f"cannot load {kind.__name__} from {source!r}: {first_line(error)}") from error
    missing = sorted(set(info["missing_keys"]) - set(model.architecture.tied[network]))
    if missing:
        raise UserError(
            f"checkpoint {source!r} lacks {len(missing)} weights of {kind.__name__} (first: {missing[0]}); "
            f"give a {network} checkpoint with its pre-training head"
        )
    theirs: dict[str, Tensor] = loaded.state_dict()
    names = model.architecture.transformers_names(network)
    found = {ours: torch.cat([theirs[part] for part in parts]).float() for ours, parts in names.items()}
    found, lost = model.architecture.unfolded(network, found, table)
    if lost > _LOST:
        logger.warning(
            "the embeddings of %s %s are no projection of a table of width %d that both networks share: the nearest "
            "one is used, which differs by %.2g of their norm",
            network,
            source,
            model.config.embedding,
            lost,
        )
    return found


def tokenizer_differs(source: str | Path, vocabulary: Mapping[str, int], where: str) -> str | None:
    """Compare the tokenizer in a folder, whatever its files, with ``vocabulary``, token to id, of ``where``.

    Returns None where all tokens are the same, else a line: there is none to compare with.

    Raises:
        UserError: tokens differ, with an example, or the tokenizer can't be read.
    """
    folder = Path(source)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return f"{source} holds no tokenizer, so whether its tokens are those of {where} is not known"
    theirs, ours = _tokens_by_id(folder), {index: token for token, index in vocabulary.items()}
    other = [
        index
        for index in sorted({*theirs, *ours})
        # A vocab.txt has a line for each id, used or not.
        if theirs.get(index) != ours.get(index) and not (theirs.get(index) or "").startswith("[unused-gap-")
    ]
    if other:
        first = ", ".join(
            f"id {index} is {_named(theirs, index)} there, {_named(ours, index)} here" for index in other[:_SHOWN]
        )
        raise UserError(
            f"checkpoint {str(source)!r} has another tokenizer than {where}: {len(theirs):,} tokens there, "
            f"{len(ours):,} here, and {len(other)} of {len(ours)} ids mean another token ({first}"
            f"{', ...' if len(other) > _SHOWN else ''}); build the store with the checkpoint's tokenizer "
            "(tokenizer.path), or start from other weights"
        )
    return None


def _named(tokens: Mapping[int, str], index: int) -> str:
    return repr(tokens[index]) if index in tokens else "nothing"


def _tokens_by_id(folder: Path) -> dict[int, str]:
    try:
        if not (folder / "tokenizer.json").is_file() and (folder / "vocab.txt").is_file():
            lines = (folder / "vocab.txt").read_bytes().decode("utf-8").removesuffix("\n").split("\n")
            return {index: line.removesuffix("\r") for index, line in enumerate(lines)}
        with panics_as_errors():
            if (folder / "tokenizer.json").is_file():
                vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
            else:
                vocabulary = AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                ).get_vocab()
    except Exception as error:  # the libraries raise nothing more specific for a bad file
        raise UserError(f"cannot read the tokenizer of {str(folder)!r}: {first_line(error)}; restore it") from error
    return {index: token for token, index in vocabulary.items()}


def import_checkpoint(discriminator: str | Path, generator: str | Path | None, model: Electra) -> None:
    """Load transformers checkpoints into ``model``, in place.

    Args:
        discriminator: folder or hub id of what the architecture's discriminator is exported as. A folder that
            ``export`` wrote stands for both parts.
        generator: folder or hub id of what its generator is exported as; None leaves the generator's encoder and head
            as they are. The shared embeddings come from the discriminator; if the generator's differ, a
            warning says by how much.
        model: its sizes must be those of the checkpoints.

    Raises:
        UserError: a checkpoint can't be read, lacks weights, or does not fit, with both numbers.
    """
    sources = _sources(discriminator, generator)
    weights = _read_weights(sources.discriminator, model, "discriminator")
    if sources.generator is not None and model.generator is not None:
        table = weights[f"embeddings.{_WORDS}"]
        for name, value in _read_weights(sources.generator, model, "generator", table).items():
            if name not in weights:
                weights[name] = value
            elif not torch.equal(weights[name], value):
                logger.warning(
                    "%s in generator %s differs from the discriminator's by up to %.3g; the latter is used",
                    name,
                    sources.generator,
                    (weights[name] - value).abs().max().item(),
                )
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for name, value in weights.items():
            parameters[name].copy_(value)
