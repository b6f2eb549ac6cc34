"""Conversion to and from Hugging Face checkpoints: the only place that knows transformers' names.

``export`` writes two folders that ``ElectraForPreTraining`` and ``ElectraForMaskedLM`` open;
``import_checkpoint`` reads such folders, or hub ids.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
)

from data_pipeline.errors import UserError
from electra_scale.model.electra import Electra
from electra_scale.recipe.model import EncoderSize, ModelConfig

logger = logging.getLogger(__name__)

Network = Literal["discriminator", "generator"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)

_EMBEDDINGS = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "token_type": "token_type_embeddings",
}
_LAYER = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention_output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "ffn_in": ("intermediate.dense",),
    "ffn_out": ("output.dense",),
    "ffn_norm": ("output.LayerNorm",),
}
_HEADS: dict[Network, dict[str, str]] = {
    "discriminator": {
        "dense": "discriminator_predictions.dense",
        "output": "discriminator_predictions.dense_prediction",
    },
    "generator": {"dense": "generator_predictions.dense", "norm": "generator_predictions.LayerNorm"},
}


def _size(config: ModelConfig, network: Network) -> EncoderSize:
    return config.discriminator if network == "discriminator" else config.generator


def _names(config: ModelConfig, network: Network) -> dict[str, tuple[str, ...]]:
    """Our parameter names to transformers'; several names are parts of ours, stacked along the first axis."""
    size = _size(config, network)
    names: dict[str, tuple[str, ...]] = {}

    def both(ours: str, *theirs: str) -> None:
        for leaf in ("weight", "bias"):
            names[f"{ours}.{leaf}"] = tuple(f"{name}.{leaf}" for name in theirs)

    for ours, theirs in _EMBEDDINGS.items():
        names[f"embeddings.{ours}.weight"] = (f"electra.embeddings.{theirs}.weight",)
    both("embeddings.norm", "electra.embeddings.LayerNorm")
    if config.embedding != size.hidden:
        both(f"{network}.project", "electra.embeddings_project")
    for layer in range(size.layers):
        for ours, parts in _LAYER.items():
            both(
                f"{network}.layers.{layer}.{ours}",
                *(f"electra.encoder.layer.{layer}.{part}" for part in parts),
            )
    for ours, theirs in _HEADS[network].items():
        both(f"{network}_head.{ours}", theirs)
    if network == "generator":
        names["generator_head.bias"] = ("generator_lm_head.bias",)
    return names


def _transformers_config(config: ModelConfig, network: Network, pad_token_id: int | None) -> ElectraConfig:
    size = _size(config, network)
    return ElectraConfig(
        vocab_size=config.vocab_size,
        embedding_size=config.embedding,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.ffn,
        hidden_act="gelu",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        max_position_embeddings=config.max_positions,
        type_vocab_size=config.token_types,
        initializer_range=config.init_std,
        layer_norm_eps=config.layer_norm_eps,
        pad_token_id=pad_token_id,
        tie_word_embeddings=True,
    )


def _transformers_model(model: Electra, network: Network, pad_token_id: int | None) -> Any:
    """The network as a transformers model in fp32 on the CPU."""
    ours = model.state_dict()
    theirs: dict[str, Tensor] = {}
    for name, parts in _names(model.config, network).items():
        pieces = ours[name].detach().float().cpu().chunk(len(parts))
        theirs.update(zip(parts, pieces, strict=True))
    # transformers fills new models from the global random state; leave that as it was.
    with torch.random.fork_rng(devices=[]):
        config = _transformers_config(model.config, network, pad_token_id)
        if network == "discriminator":
            result: Any = ElectraForPreTraining(config)
        else:
            result = ElectraForMaskedLM(config)
            theirs["generator_lm_head.weight"] = theirs["electra.embeddings.word_embeddings.weight"]
    result.load_state_dict(theirs)
    result.tie_weights()
    return result.eval()


def _copy_tokenizer(tokenizer_dir: Path, folder: Path) -> None:
    found = [name for name in TOKENIZER_FILES if (tokenizer_dir / name).is_file()]
    if not {"tokenizer.json", "vocab.txt"}.intersection(found):
        raise UserError(
            f"no tokenizer in {tokenizer_dir}: neither tokenizer.json nor vocab.txt is there; "
            "give the folder that the tokenizer was saved to"
        )
    for name in found:
        shutil.copyfile(tokenizer_dir / name, folder / name)


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
        for network in ("discriminator", "generator"):
            folder = partial / network
            folder.mkdir()
            _copy_tokenizer(tokenizer_dir, folder)
            # AutoTokenizer may need the model type, so a config has to stand there before it is asked.
            _transformers_config(model.config, network, None).save_pretrained(folder)
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


def _read_config(source: str) -> ElectraConfig:
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read a transformers config from {source!r}: {_first_line(error)}; "
            "give a folder with config.json or a hub id"
        ) from error
    if not isinstance(config, ElectraConfig):
        raise UserError(f"{source!r} is a {config.model_type} checkpoint; an electra checkpoint is needed")
    if config.hidden_act != "gelu":
        raise UserError(f"{source!r} has hidden_act {config.hidden_act!r}; this encoder computes 'gelu' only")
    return config


def _require_fit(source: str, theirs: ElectraConfig, config: ModelConfig, network: Network) -> None:
    size = _size(config, network)
    pairs: dict[str, tuple[float, float]] = {
        "vocab_size": (theirs.vocab_size, config.vocab_size),
        "embedding": (theirs.embedding_size, config.embedding),
        "max_positions": (theirs.max_position_embeddings, config.max_positions),
        "token_types": (theirs.type_vocab_size, config.token_types),
        "layer_norm_eps": (theirs.layer_norm_eps, config.layer_norm_eps),
        f"{network}.layers": (theirs.num_hidden_layers, size.layers),
        f"{network}.hidden": (theirs.hidden_size, size.hidden),
        f"{network}.ffn": (theirs.intermediate_size, size.ffn),
        f"{network}.heads": (theirs.num_attention_heads, size.heads),
    }
    wrong = [f"{name} {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]
    if wrong:
        raise UserError(
            f"checkpoint {source!r} does not fit the model: {'; '.join(wrong)}; "
            "make the model's sizes those of the checkpoint"
        )


def _read_weights(source: str, config: ModelConfig, network: Network) -> dict[str, Tensor]:
    """One network's weights under our names, in fp32."""
    _require_fit(source, _read_config(source), config, network)
    kind: Any = ElectraForPreTraining if network == "discriminator" else ElectraForMaskedLM
    try:
        loaded, info = kind.from_pretrained(source, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load {kind.__name__} from {source!r}: {_first_line(error)}") from error
    missing = sorted(set(info["missing_keys"]) - {"generator_lm_head.weight"})
    if missing:
        raise UserError(
            f"checkpoint {source!r} lacks {len(missing)} weights of {kind.__name__} (first: {missing[0]}); "
            f"give a {network} checkpoint with its pre-training head"
        )
    theirs: dict[str, Tensor] = loaded.state_dict()
    return {
        ours: torch.cat([theirs[part] for part in parts]).float() for ours, parts in _names(config, network).items()
    }


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
    weights = _read_weights(sources.discriminator, model.config, "discriminator")
    if sources.generator is not None:
        for name, value in _read_weights(sources.generator, model.config, "generator").items():
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
