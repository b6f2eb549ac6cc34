"""Conversion to and from Hugging Face checkpoints: the only place that knows transformers' names.

``export`` writes a folder for each network that its class of transformers opens; ``import_checkpoint`` reads such
folders, or hub ids. Names and configurations are the architecture's.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from data_pipeline.errors import UserError
from electra_scale.model.architectures.architecture import Network
from electra_scale.model.electra import Electra

logger = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)


def _transformers_model(model: Electra, network: Network, pad_token_id: int | None) -> Any:
    """The network as a transformers model in fp32 on the CPU."""
    ours = model.state_dict()
    ours |= {f"embeddings.{name}": value for name, value in model.sharing.exported(network).items()}
    theirs: dict[str, Tensor] = {}
    for name, parts in model.architecture.transformers_names(network).items():
        pieces = ours[name].detach().float().cpu().chunk(len(parts))
        theirs.update(zip(parts, pieces, strict=True))
    # transformers fills new models from the global random state; leave that as it was.
    with torch.random.fork_rng(devices=[]):
        config = model.architecture.transformers_config(network)
        config.pad_token_id = pad_token_id
        result: Any = _class_of(model, network)(config)
    for name, same in model.architecture.tied[network].items():
        theirs[name] = theirs[same]
    result.load_state_dict(theirs)
    result.tie_weights()
    return result.eval()


def _class_of(model: Electra, network: Network) -> Any:
    return getattr(transformers, model.architecture.hugging_face[network])


def _copy_tokenizer(tokenizer_dir: Path, folder: Path) -> None:
    found = [name for name in TOKENIZER_FILES if (tokenizer_dir / name).is_file()]
    if not {"tokenizer.json", "vocab.txt"}.intersection(found):
        raise UserError(
            f"no tokenizer in {tokenizer_dir}: neither tokenizer.json nor vocab.txt is there; "
            "give the folder that the tokenizer was saved to"
        )
    for name in found:
        shutil.copyfile(tokenizer_dir / name, folder / name)


def networks_of(model: Electra) -> list[Network]:
    """The networks of a model that an export holds; a corruption without a generator has none."""
    return ["discriminator"] if model.generator is None else ["discriminator", "generator"]


def export(model: Electra, tokenizer_dir: Path, out: Path) -> None:
    """Write ``out/discriminator`` and ``out/generator`` as transformers checkpoints with tokenizer, in fp32.

    Both are built in a temporary folder beside ``out`` that is renamed at the end, so ``out`` is whole or
    absent.

    Args:
        model: any device, any dtype.
        tokenizer_dir: folder with ``tokenizer.json`` or ``vocab.txt`` and what goes with it.
        out: folder to make; it may exist if it is empty.

    Raises:
        UserError: ``out`` holds something, ``tokenizer_dir`` holds no tokenizer, or the tokenizer has more
            tokens than the model.
    """
    tokenizer_dir, out = Path(tokenizer_dir), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"export target {out} exists and is not empty; choose another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        # mkdtemp makes it private to this user; the result should be as readable as any new folder.
        partial.chmod(out.parent.stat().st_mode & 0o777)
        for network in networks_of(model):
            folder = partial / network
            folder.mkdir()
            _copy_tokenizer(tokenizer_dir, folder)
            # AutoTokenizer may need the model type, so a config has to stand there before it is asked.
            model.architecture.transformers_config(network).save_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            if len(tokenizer) > model.config.vocab_size:
                raise UserError(
                    f"the tokenizer in {tokenizer_dir} has {len(tokenizer)} tokens, the model's vocabulary "
                    f"has {model.config.vocab_size}; give the tokenizer that the model was trained with"
                )
            _transformers_model(model, network, tokenizer.pad_token_id).save_pretrained(folder)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_config(source: str) -> Any:
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read a transformers config from {source!r}: {_first_line(error)}; "
            "give a folder with config.json or a hub id"
        ) from error


def _require_fit(source: str, theirs: Any, model: Electra, network: Network) -> None:
    wrong = model.architecture.differences(network, theirs)
    if wrong:
        raise UserError(
            f"checkpoint {source!r} does not fit the model: {'; '.join(wrong)}; "
            "make the model's sizes those of the checkpoint"
        )


def _read_weights(source: str, model: Electra, network: Network) -> dict[str, Tensor]:
    """One network's weights under our names, in fp32."""
    _require_fit(source, _read_config(source), model, network)
    kind = _class_of(model, network)
    try:
        loaded, info = kind.from_pretrained(source, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load {kind.__name__} from {source!r}: {_first_line(error)}") from error
    missing = sorted(set(info["missing_keys"]) - set(model.architecture.tied[network]))
    if missing:
        raise UserError(
            f"checkpoint {source!r} lacks {len(missing)} weights of {kind.__name__} (first: {missing[0]}); "
            f"give a {network} checkpoint with its pre-training head"
        )
    theirs: dict[str, Tensor] = loaded.state_dict()
    names = model.architecture.transformers_names(network)
    return {ours: torch.cat([theirs[part] for part in parts]).float() for ours, parts in names.items()}


def import_checkpoint(discriminator: str | Path, generator: str | Path | None, model: Electra) -> None:
    """Load transformers checkpoints into ``model``, in place.

    Args:
        discriminator: folder or hub id of an ``ElectraForPreTraining``. A folder that ``export`` wrote stands
            for both parts.
        generator: folder or hub id of an ``ElectraForMaskedLM``; None leaves the generator's encoder and head
            as they are. The shared embeddings come from the discriminator; if the generator's differ, a
            warning says by how much.
        model: its sizes must be those of the checkpoints.

    Raises:
        UserError: a checkpoint can't be read, lacks weights, or does not fit, with both numbers.
    """
    sources = _sources(discriminator, generator)
    weights = _read_weights(sources.discriminator, model, "discriminator")
    if sources.generator is not None and model.generator is not None:
        for name, value in _read_weights(sources.generator, model, "generator").items():
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
