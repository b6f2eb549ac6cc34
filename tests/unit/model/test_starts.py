"""Published weights as starts: what our networks compute is what transformers computes with the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.tokenize.tokenizer import save_tokenizer, wordpiece_tokenizer
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.model.starts.source import kept_layers
from electra_scale.model.starts.start import Start, start_from_folder, start_from_run
from electra_scale.recipe.model import EncoderSize, InitNetworks, ModelConfig
from tests.unit.model.conftest import rough_model, roughen

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(45))]
VOCABULARY = {word: index for index, word in enumerate(WORDS)}
WIDE, NARROW = EncoderSize(4, 24, 48, 4), EncoderSize(2, 12, 24, 2)
IDS = torch.tensor([[2, 7, 30, 4, 9, 3], [2, 8, 4, 3, 0, 0]])
SEGMENT = torch.tensor([[0] * 6, [0, 0, 0, 0, -1, -1]])

CONFIG = ModelConfig(
    vocab_size=len(WORDS), embedding=24, discriminator=WIDE, generator=NARROW, max_positions=16, dropout=0.0
)
TWICE = replace(CONFIG, generator=replace(WIDE, layers=2))


def save(folder: Path, model: str = "BertForMaskedLM", seed: int = 1, words: list[str] = WORDS, **changes: Any) -> Any:
    """Random weights of a class of transformers with its tokenizer, in a folder; returns the model."""
    kind = model.partition("For")[0].removesuffix("Model")
    size = {"num_hidden_layers": 4, "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 4}
    size |= {"vocab_size": len(WORDS), "max_position_embeddings": 16}
    if kind == "Electra":
        size["embedding_size"] = 24
    config = getattr(transformers, f"{kind}Config")(**(size | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = getattr(transformers, model)(config).eval()
    roughen(made, seed)
    made.tie_weights()
    made.save_pretrained(folder)
    save_tokenizer(folder / "made", wordpiece_tokenizer({word: n for n, word in enumerate(words)}, True))
    for file in (folder / "made" / "tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)
    shutil.rmtree(folder / "made")
    return made


def started(
    folder: Path, config: ModelConfig = CONFIG, networks: InitNetworks = "auto"
) -> tuple[Electra, Start, list[str]]:
    electra, lines = Electra(config, seed=9).eval(), list[str]()
    return electra, start_from_folder(folder, networks, electra, VOCABULARY, "the store", lines.append), lines


def scores(electra: Electra) -> Tensor:
    """(B,S,V) of the generator."""
    assert electra.generator_head is not None
    features = electra.generator_head(electra.generator_hidden(IDS, Layout.of(SEGMENT)))
    return features @ electra.word_embeddings.T + electra.generator_head.bias


def hidden(electra: Electra) -> Tensor:
    return electra.discriminator_hidden(IDS, Layout.of(SEGMENT)).last


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    real = SEGMENT >= 0
    assert (ours[real] - theirs[real]).abs().max() < 1e-5


@torch.no_grad()
def masked(model: Any) -> Tensor:
    return model(IDS, attention_mask=(SEGMENT >= 0).long()).logits


@torch.no_grad()
def states(model: Any) -> Tensor:
    return model(IDS, attention_mask=(SEGMENT >= 0).long(), output_hidden_states=True).hidden_states[-1]


@torch.no_grad()
@pytest.mark.parametrize("model", ["BertForMaskedLM", "BertForPreTraining", "BertModel"])
def test_a_bert_is_the_discriminator_and_a_narrower_generator_starts_fresh(model: str, tmp_path: Path) -> None:
    theirs = save(tmp_path, model, max_position_embeddings=40)
    electra, found, lines = started(tmp_path)
    assert_near(hidden(electra), states(theirs))
    assert lines == []
    assert found.fresh == {"discriminator_head", "generator", "generator_head"}
    rows = {row.part: row for row in found.rows}
    assert rows["embeddings"].notes == ("the first 16 of 40 rows of position",)
    assert "generator.hidden 24 there, 12 here" in rows["generator"].notes[0]
    fresh = Electra(CONFIG, seed=9).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in electra.state_dict().items() if "generator" in name)
    left = found.left_out
    assert ("bert.pooler.dense.weight" in left) == (model != "BertForMaskedLM")
    assert ("cls.predictions.bias" in left) == (model != "BertModel")
    assert not [name for name in left if "decoder" in name or "encoder" in name]


@torch.no_grad()
def test_a_bert_is_both_networks_and_a_shallower_generator_has_evenly_spaced_layers(tmp_path: Path) -> None:
    theirs = save(tmp_path)
    electra, found, _ = started(tmp_path, replace(CONFIG, generator=WIDE))
    assert_near(hidden(electra), states(theirs))
    assert_near(scores(electra), masked(theirs))
    assert found.fresh == {"discriminator_head"}
    assert found.left_out == {}
    electra, found, _ = started(tmp_path, TWICE)
    # The same model with the layers between the first and the last one taken out.
    theirs.bert.encoder.layer = torch.nn.ModuleList(theirs.bert.encoder.layer[index] for index in (0, 3))
    assert_near(scores(electra), masked(theirs))
    assert [row.notes for row in found.rows if row.part == "generator"] == [("layers 0, 3 of 4",)]
    assert any("layers 0, 3 of 4" in line for line in found.lines())


@torch.no_grad()
def test_a_bert_is_the_generator_alone_if_so_chosen(tmp_path: Path) -> None:
    theirs = save(tmp_path)
    config = replace(CONFIG, discriminator=EncoderSize(3, 32, 40, 4), generator=WIDE)
    electra, found, _ = started(tmp_path, config, "generator")
    assert_near(scores(electra), masked(theirs))
    assert found.fresh == {"discriminator", "discriminator_head"}
    for networks in ("auto", "both"):
        with pytest.raises(UserError, match=r"discriminator\.hidden 24 there, 32 here"):
            started(tmp_path, config, networks)


def test_layers_are_kept_as_distilbert_keeps_them() -> None:
    assert kept_layers(12, 6) == [0, 2, 4, 7, 9, 11]
    assert kept_layers(12, 1) == [0]
    assert kept_layers(12, 12) == list(range(12))
    assert kept_layers(4, 3) == [0, 2, 3]


def pair(folder: Path) -> tuple[Any, Any]:
    discriminator = save(folder / "discriminator", "ElectraForPreTraining")
    size = {"num_hidden_layers": 2, "hidden_size": 12, "intermediate_size": 24, "num_attention_heads": 2}
    generator = save(folder / "generator", "ElectraForMaskedLM", 2, **size)
    theirs, ours = generator.electra.embeddings, discriminator.electra.embeddings
    theirs.load_state_dict(ours.state_dict())
    generator.save_pretrained(folder / "generator")
    return discriminator, generator


@torch.no_grad()
def test_an_electra_pair_evaluates_as_in_transformers(tmp_path: Path) -> None:
    discriminator, generator = pair(tmp_path)
    electra, found, lines = started(tmp_path)
    assert_near(electra.discriminator_head(hidden(electra)), masked(discriminator))
    assert_near(scores(electra), masked(generator))
    assert (found.fresh, found.left_out, lines) == (set(), {}, [])


@torch.no_grad()
def test_a_discriminator_alone_leaves_the_generator_fresh(tmp_path: Path) -> None:
    discriminator, _ = pair(tmp_path)
    shutil.rmtree(tmp_path / "generator")
    for folder in (tmp_path, tmp_path / "discriminator"):
        electra, found, _ = started(folder, replace(CONFIG, generator=WIDE))
        assert_near(electra.discriminator_head(hidden(electra)), masked(discriminator))
        assert found.fresh == {"generator", "generator_head"}


@torch.no_grad()
def test_a_generator_alone_is_both_networks_where_their_sizes_are_one(tmp_path: Path) -> None:
    _, generator = pair(tmp_path)
    shutil.rmtree(tmp_path / "discriminator")
    electra, found, _ = started(tmp_path, replace(CONFIG, discriminator=NARROW))
    assert_near(scores(electra), masked(generator))
    assert_near(hidden(electra), states(generator))
    assert found.fresh == {"discriminator_head"}
    electra, found, _ = started(tmp_path)
    assert_near(scores(electra), masked(generator))
    assert found.fresh == {"discriminator", "discriminator_head"}
    with pytest.raises(UserError, match=r"generator\.hidden 12 there, 24 here"):
        started(tmp_path, TWICE)
    electra, found, _ = started(tmp_path, replace(CONFIG, discriminator=NARROW, generator=WIDE), "discriminator")
    assert_near(hidden(electra), states(generator))
    assert found.fresh == {"discriminator_head", "generator", "generator_head"}


def resaved(folder: Path, how: str) -> None:
    """The same weights in other files."""
    weights = load_file(folder / "model.safetensors")
    if how == "sharded":
        (folder / "model.safetensors").unlink()
        model = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(folder))
        model.load_state_dict(weights, strict=False)
        model.tie_weights()
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    elif how == "pickled":
        torch.save(weights, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    elif how == "pickled in parts":
        names = sorted(weights)
        parts = {"a.bin": names[::2], "b.bin": names[1::2]}
        for file, chosen in parts.items():
            torch.save({name: weights[name] for name in chosen}, folder / file)
        index = {"weight_map": {name: file for file, chosen in parts.items() for name in chosen}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        (folder / "model.safetensors").unlink()
    elif how == "of 2018":
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in weights.items()
        }
        torch.save(old, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("how", ["sharded", "pickled", "pickled in parts", "of 2018"])
def test_weights_come_from_any_files(how: str, tmp_path: Path) -> None:
    theirs = save(tmp_path)
    resaved(tmp_path, how)
    with torch.no_grad():
        assert_near(scores(started(tmp_path, replace(CONFIG, generator=WIDE))[0]), masked(theirs))


def _without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from safetensors.torch import save_file

        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return change


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights" * 9)


def _planted(folder: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, (f"open({str(folder / 'ran')!r}, 'w')",))

    torch.save({"bert.pooler": Planted()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"bert.a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _of_another_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))


def _other_words(folder: Path) -> None:
    save(folder, words=WORDS[:5] + WORDS[:4:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("bert.encoder.layer.2.output.dense.weight"), r"lacks 1 weights that the discriminator needs \(first"),
        (_without("cls.predictions.bias"), r"lacks 1 weights that the generator .*with its pre-training head"),
        (_garbage, "cannot read weights from"),
        (_planted, r"cannot read weights from .*pytorch_model\.bin"),
        (_elsewhere, r"names outside\.safetensors, which is not in"),
        (_other_words, r"50 tokens there, 50 here, and 44 of 50 ids .*\(id 5 is 'w44' there, 'w0' here, id 6 is"),
        (lambda folder: save(folder, hidden_act="relu"), "hidden_act relu there, gelu here"),
        (lambda folder: save(folder, num_hidden_layers=3), r"discriminator\.layers 3 there, 4 here"),
        (lambda folder: save(folder, max_position_embeddings=8), "max_positions 8 there, 16 here"),
        (lambda folder: save(folder, tie_word_embeddings=False), "another matrix than its word embeddings"),
        (lambda folder: (folder / "config.json").unlink(), "holds neither config.json nor"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (_of_another_type, "of type gpt2, which no start is known for"),
    ],
)
def test_what_cannot_be_a_start_is_one_line_and_changes_nothing(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "given"
    save(folder)
    change(folder)
    electra = Electra(replace(CONFIG, generator=WIDE), seed=9)
    before = {name: value.clone() for name, value in electra.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        start_from_folder(folder, "both", electra, VOCABULARY, "the store", lambda line: None)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in electra.state_dict().items())
    assert not (folder / "ran").exists()


def test_rows_beyond_the_stores_tokens_are_cut_if_the_tokenizer_is_known_to_be_the_stores(tmp_path: Path) -> None:
    theirs = save(tmp_path, vocab_size=64)
    electra, found, _ = started(tmp_path, replace(CONFIG, generator=WIDE))
    with torch.no_grad():
        assert_near(scores(electra), masked(theirs)[..., : len(WORDS)])
    assert found.rows[0].notes == ("the first 50 of 64 rows of word",)
    for file in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    with pytest.raises(UserError, match="vocab_size 64 there, 50 here"):
        started(tmp_path)


@torch.no_grad()
def test_a_run_of_masked_prediction_is_both_networks_and_one_of_both_phases_gives_each_its_own() -> None:
    theirs = rough_model(replace(CONFIG, generator=WIDE), 3)
    ours = Electra(replace(CONFIG, generator=WIDE), seed=9).eval()
    found = start_from_run("run", theirs, "mlm", "auto", ours)
    assert found.fresh == {"discriminator_head"}
    assert torch.equal(scores(ours), scores(theirs))
    assert torch.equal(ours.discriminator.layers[1].qkv.weight, theirs.generator.layers[1].qkv.weight)
    assert start_from_run("run", theirs, "joint", "auto", ours).fresh == set()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    narrow = Electra(CONFIG, seed=9)
    with pytest.raises(UserError, match=r"model\.generator layers 4, hidden 24.* there, layers 2, hidden 12.* here"):
        start_from_run("run", theirs, "joint", "auto", narrow)
    with pytest.raises(UserError, match=r"model\.generator layers 4, hidden 24.* there, layers 2, hidden 12.* here"):
        start_from_run("run", theirs, "generator_warmup", "auto", narrow)
    found = start_from_run("run", theirs, "mlm", "auto", narrow)
    assert found.fresh == {"discriminator_head", "generator", "generator_head"}
    assert torch.equal(narrow.discriminator.layers[1].qkv.weight, theirs.generator.layers[1].qkv.weight)


def test_the_table_names_parts_parameters_and_what_is_left(tmp_path: Path) -> None:
    save(tmp_path, "BertForPreTraining")
    _, found, _ = started(tmp_path)
    lines = found.lines()
    assert lines[0] == f"weights start from {tmp_path}"
    assert lines[1].split(None, 2)[::2] == ["embeddings", "bert of transformers"]
    assert [line.split()[2] for line in lines[2:6]] == ["bert", "fresh", "fresh,", "fresh"]
    assert lines[6].startswith("  left out")
    assert "weights there: " in lines[6]
    record = json.loads(json.dumps(found.record()))
    assert record["parts"]["discriminator_head"]["from"] is None
    assert "bert.pooler.dense.weight" in record["left_out"]
