"""Checkpoints leave for transformers and come back with the same numbers."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
)

from data_pipeline.errors import UserError
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.model.hf import export, import_checkpoint
from electra_scale.recipe.model import EncoderSize, ModelConfig
from tests.support.instruments.logits import discriminator_logits

from .conftest import VOCAB, rough_model, roughen

TOLERANCE = 1e-5
POSITIONS = 24


def batch(padded: bool) -> tuple[Tensor, Tensor]:
    """(B,S) ids and segment, the second row cut short where padded."""
    random = torch.Generator().manual_seed(3)
    ids = torch.randint(5, VOCAB, (3, POSITIONS), generator=random)
    segment = torch.zeros_like(ids)
    if padded:
        ids[1, 15:], segment[1, 15:] = 0, -1
        ids[2, 1:], segment[2, 1:] = 0, -1
    return ids, segment


def our_states(model: Electra, network: str, ids: Tensor, segment: Tensor) -> tuple[list[Tensor], Tensor]:
    """Output of every layer, and the logits."""
    states: list[Tensor] = []
    encoder = model.discriminator if network == "discriminator" else model.generator
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: states.append(output)) for layer in encoder.layers
    ]
    layout = Layout.of(segment)
    with torch.no_grad():
        if network == "discriminator":
            logits = discriminator_logits(model, ids, layout)
        else:
            hidden = model.generator_hidden(ids, layout).flatten(0, 1)
            features = model.generator_head(hidden)
            logits = features @ model.word_embeddings.T + model.generator_head.bias
            logits = logits.view(*ids.shape, -1)
    for hook in hooks:
        hook.remove()
    return states, logits


def assert_same(model: Electra, network: str, theirs: Any, padded: bool) -> None:
    ids, segment = batch(padded)
    states, logits = our_states(model, network, ids, segment)
    with torch.no_grad():
        output = theirs.eval()(ids, attention_mask=(segment >= 0).long(), output_hidden_states=True)
    real = segment >= 0
    # Theirs starts with the encoder's input.
    assert len(output.hidden_states) == len(states) + 1
    for ours, other in zip(states, output.hidden_states[1:], strict=True):
        assert (ours - other)[real].abs().max() < TOLERANCE
    assert (logits - output.logits)[real].abs().max() < TOLERANCE


def random_transformers_pair(config: ModelConfig, folder: Path) -> tuple[Any, Any]:
    """Random ElectraForPreTraining and ElectraForMaskedLM with shared embeddings, saved to two folders."""
    pair = []
    for kind, size in ((ElectraForPreTraining, config.discriminator), (ElectraForMaskedLM, config.generator)):
        theirs: Any = kind(
            ElectraConfig(
                vocab_size=config.vocab_size,
                embedding_size=config.embedding,
                hidden_size=size.hidden,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                intermediate_size=size.ffn,
                max_position_embeddings=config.max_positions,
            )
        )
        roughen(theirs, 7)
        pair.append(theirs)
    discriminator, generator = pair
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    discriminator.save_pretrained(folder / "d")
    generator.save_pretrained(folder / "g")
    return discriminator, generator


def test_export_gives_transformers_the_same_states_and_logits(
    preset: ModelConfig, tokenizer_dir: Path, tmp_path: Path
) -> None:
    model = rough_model(preset)
    export(model, tokenizer_dir, tmp_path / "out")
    for network, kind in (("discriminator", ElectraForPreTraining), ("generator", ElectraForMaskedLM)):
        theirs = kind.from_pretrained(tmp_path / "out" / network)
        for padded in (False, True):
            assert_same(model, network, theirs, padded)


def test_import_gives_us_the_same_states_and_logits(preset: ModelConfig, tmp_path: Path) -> None:
    discriminator, generator = random_transformers_pair(preset, tmp_path)
    model = Electra(preset).eval()
    import_checkpoint(tmp_path / "d", tmp_path / "g", model)
    for padded in (False, True):
        assert_same(model, "discriminator", discriminator, padded)
        assert_same(model, "generator", generator, padded)


def test_export_then_import_is_bit_equal(tiny: ModelConfig, tokenizer_dir: Path, tmp_path: Path) -> None:
    model, other = rough_model(tiny), Electra(tiny, seed=9)
    export(model, tokenizer_dir, tmp_path / "out")
    import_checkpoint(tmp_path / "out", None, other)
    restored = other.state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in model.state_dict().items())


def test_import_of_a_discriminator_alone_leaves_the_generator(tiny: ModelConfig, tmp_path: Path) -> None:
    random_transformers_pair(tiny, tmp_path)
    model, before = Electra(tiny), Electra(tiny).state_dict()
    import_checkpoint(tmp_path / "d", None, model)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"embeddings", "discriminator", "discriminator_head"}


def test_embeddings_are_tied_after_export_and_import(tiny: ModelConfig, tokenizer_dir: Path, tmp_path: Path) -> None:
    model = rough_model(tiny)
    export(model, tokenizer_dir, tmp_path / "out")
    theirs: Any = ElectraForMaskedLM.from_pretrained(tmp_path / "out" / "generator")
    assert theirs.generator_lm_head.weight is theirs.electra.embeddings.word_embeddings.weight
    storage = model.word_embeddings.data_ptr()
    import_checkpoint(tmp_path / "out", None, model)
    assert model.word_embeddings.data_ptr() == storage
    assert [n for n, p in model.named_parameters() if p.shape == (VOCAB, tiny.embedding)] == ["embeddings.word.weight"]


@pytest.mark.parametrize("files", [["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"]])
def test_exported_folders_hold_config_weights_and_tokenizer(
    files: list[str], tiny: ModelConfig, tokenizer_dir: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in files:
        shutil.copy(tokenizer_dir / name, source / name)
    export(Electra(tiny), source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    for network, architecture in (
        ("discriminator", "ElectraForPreTraining"),
        ("generator", "ElectraForMaskedLM"),
    ):
        folder = tmp_path / "out" / network
        settings = json.loads((folder / "config.json").read_text())
        assert settings["architectures"] == [architecture]
        assert settings["model_type"] == "electra"
        assert settings["vocab_size"] == VOCAB
        assert settings["pad_token_id"] == 0
        assert (folder / "model.safetensors").is_file()
        encoded: Any = AutoTokenizer.from_pretrained(folder)("The cats sat", return_tensors="pt")
        assert encoded["input_ids"].tolist() == [[2, 5, 7, 14, 9, 3]]


def test_export_keeps_what_is_there(tiny: ModelConfig, tokenizer_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        export(Electra(tiny), tokenizer_dir, out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    export(Electra(tiny), tokenizer_dir, out)
    assert sorted(path.name for path in out.iterdir()) == ["discriminator", "generator"]


def test_failed_export_leaves_nothing(tiny: ModelConfig, tokenizer_dir: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no tokenizer in .*empty"):
        export(Electra(tiny), empty, tmp_path / "out")
    few = replace(tiny, vocab_size=9)
    with pytest.raises(UserError, match=r"15 tokens.* 9"):
        export(Electra(few), tokenizer_dir, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_export_does_not_move_the_global_random_state(tiny: ModelConfig, tokenizer_dir: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    export(Electra(tiny), tokenizer_dir, tmp_path / "out")
    assert torch.equal(before, torch.get_rng_state())


def test_import_refuses_what_does_not_fit(tiny: ModelConfig, tmp_path: Path) -> None:
    random_transformers_pair(tiny, tmp_path)
    BertConfig().save_pretrained(tmp_path / "bert")
    (tmp_path / "nothing").mkdir()

    def variant(discriminator: EncoderSize, generator: EncoderSize = tiny.generator) -> Electra:
        return Electra(replace(tiny, discriminator=discriminator, generator=generator))

    wide = variant(replace(tiny.discriminator, hidden=256))
    with pytest.raises(UserError, match=r"discriminator\.hidden 128 there, 256 here"):
        import_checkpoint(tmp_path / "d", None, wide)
    few_heads = variant(replace(tiny.discriminator, heads=2))
    with pytest.raises(UserError, match=r"heads 4 there, 2 here"):
        import_checkpoint(tmp_path / "d", None, few_heads)
    swapped = variant(tiny.generator, tiny.discriminator)
    with pytest.raises(UserError, match="lacks"):
        import_checkpoint(tmp_path / "g", tmp_path / "d", swapped)
    model = Electra(tiny)
    with pytest.raises(UserError, match="model_type bert there, electra here"):
        import_checkpoint(tmp_path / "bert", None, model)
    with pytest.raises(UserError, match="cannot read"):
        import_checkpoint(tmp_path / "nothing", None, model)


class Planted:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_nothing_that_comes_with_published_weights_is_run(tiny: ModelConfig, tmp_path: Path) -> None:
    random_transformers_pair(tiny, tmp_path)
    model, marker = Electra(tiny), tmp_path / "marker"
    config = json.loads((tmp_path / "d/config.json").read_text())
    code = f"import os\nos.mkdir({str(marker)!r})\nclass Model: ...\nclass Config: ...\n"
    (tmp_path / "d/code.py").write_text(code)
    classes = {"AutoConfig": "code.Config", "AutoModelForPreTraining": "code.Model"}
    for kind in ("electra", "of_their_own"):
        (tmp_path / "d/config.json").write_text(json.dumps({**config, "model_type": kind, "auto_map": classes}))
        if kind == "electra":
            import_checkpoint(tmp_path / "d", None, model)
        else:
            with pytest.raises(UserError, match="cannot read a transformers config"):
                import_checkpoint(tmp_path / "d", None, model)
    (tmp_path / "d/config.json").write_text(json.dumps(config))
    (tmp_path / "d/model.safetensors").unlink()
    torch.save({**model.state_dict(), "planted": Planted(marker)}, tmp_path / "d/pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load ElectraForPreTraining"):
        import_checkpoint(tmp_path / "d", None, model)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"null", b"[]", b'{"model_type": 3}', b'{"model_type": "electra", "hidden_size": "x"}']
)
def test_a_damaged_configuration_of_published_weights_is_one_line(
    content: bytes, tiny: ModelConfig, tmp_path: Path
) -> None:
    random_transformers_pair(tiny, tmp_path)
    (tmp_path / "d/config.json").write_bytes(content)
    with pytest.raises(UserError):
        import_checkpoint(tmp_path / "d", None, Electra(tiny))


def test_differing_embeddings_are_reported(tiny: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, generator = random_transformers_pair(tiny, tmp_path)
    with torch.no_grad():
        generator.electra.embeddings.word_embeddings.weight[7] += 0.5
    generator.save_pretrained(tmp_path / "g")
    with caplog.at_level(logging.WARNING):
        import_checkpoint(tmp_path / "d", tmp_path / "g", Electra(tiny))
    assert "embeddings.word.weight" in caplog.text
    assert "0.5" in caplog.text


def test_an_export_without_a_generator_holds_the_discriminator_alone(
    tiny: ModelConfig, tokenizer_dir: Path, tmp_path: Path
) -> None:
    model = Electra(tiny, with_generator=False)
    export(model, tokenizer_dir, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["discriminator"]
    again = Electra(tiny, seed=5, with_generator=False)
    import_checkpoint(tmp_path / "out", None, again)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
