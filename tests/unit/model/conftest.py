"""Sizes of the presets, and a tokenizer folder, for the model's tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from electra_scale.model.electra import Electra
from electra_scale.recipe.model import EncoderSize, ModelConfig, ModernSettings
from electra_scale.recipe.parse import parse_recipe, recipe_parser

VOCAB = 97

_RECIPES = Path(__file__).resolve().parents[3] / "recipes"


def _shape(name: str) -> ModelConfig:
    """The sizes of a shipped recipe; base and large with two layers, and a small vocabulary, to be quick."""
    recipe, _ = parse_recipe(recipe_parser("test"), ["--config", str(_RECIPES / f"{name}.yaml")])
    sizes = recipe.model.discriminator, recipe.model.generator
    if name in ("base", "large"):
        sizes = replace(sizes[0], layers=2), replace(sizes[1], layers=2)
    return ModelConfig(vocab_size=VOCAB, embedding=recipe.model.embedding, discriminator=sizes[0], generator=sizes[1])


PRESETS = {name: _shape(name) for name in ("tiny", "small", "base", "large")}


@pytest.fixture(params=sorted(PRESETS))
def preset(request: pytest.FixtureRequest) -> ModelConfig:
    return PRESETS[request.param]


@pytest.fixture
def tiny() -> ModelConfig:
    return PRESETS["tiny"]


@pytest.fixture(params=["bert", "modern"])
def either(request: pytest.FixtureRequest) -> ModelConfig:
    """Small networks of each architecture; the modern one's generator is narrower than the table, its window small."""
    if request.param == "bert":
        return PRESETS["tiny"]
    return modern()


def modern(
    embedding: int = 32,
    discriminator: EncoderSize | None = None,
    generator: EncoderSize | None = None,
    positions: int = 256,
    window: int = 8,
) -> ModelConfig:
    """Small networks of the modern architecture."""
    return ModelConfig(
        vocab_size=VOCAB,
        embedding=embedding,
        discriminator=discriminator or EncoderSize(4, 32, 48, 4),
        generator=generator or EncoderSize(3, 16, 24, 2),
        max_positions=positions,
        architecture=ModernSettings(window=window),
    )


def roughen(module: torch.nn.Module, seed: int) -> None:
    """Move every parameter off its start, so that no bias or LayerNorm hides a mistake behind 0 or 1."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)


def rough_model(config: ModelConfig, seed: int = 0) -> Electra:
    model = Electra(config, seed).eval()
    roughen(model, seed + 1)
    return model


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece tokenizer in the files that transformers writes."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "the", "a", "cat", "dog", "sat", "ran", "on", "mat", "hill", "##s"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(special)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(zip(names, special, strict=True))}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
