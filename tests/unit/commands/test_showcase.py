"""``electra-scale try``: shows what an export can do, or says in one line why not, and asks nobody else."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertForMaskedLM

from data_pipeline.tokenize.tokenizer import save_tokenizer, wordpiece_tokenizer
from electra_scale.cli import main
from electra_scale.model.electra import Electra
from electra_scale.model.hf import export
from electra_scale.recipe.model import EncoderSize, ModelConfig, ModernSettings

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "."]
MODEL = ModelConfig(
    vocab_size=len(WORDS),
    embedding=8,
    discriminator=EncoderSize(1, 8, 16, 2),
    generator=EncoderSize(1, 8, 16, 2),
    max_positions=12,
)


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the other architecture."""
    return written(tmp_path_factory.mktemp("modern"), replace(MODEL, architecture=ModernSettings()))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("exported"), MODEL)


def written(folder: Path, model: ModelConfig) -> Path:
    """An export with its tokenizer."""
    save_tokenizer(folder / "store", wordpiece_tokenizer({word: index for index, word in enumerate(WORDS)}, True))
    export(Electra(model), folder / "store/tokenizer", folder / "out")
    return folder / "out"


@pytest.fixture(autouse=True)
def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach a hub fails the test."""

    def refuse(*arguments: Any, **options: Any) -> None:
        pytest.fail(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that the command says."""

    def run(*arguments: object) -> str:
        assert main(["try", *map(str, arguments)]) == 2
        shown = capfd.readouterr()
        assert shown.err.count("\n") == 1, shown.err
        return shown.err

    return run


@pytest.mark.parametrize("kind", ["exported", "modern"])
def test_a_good_export_fills_the_mask_and_scores_the_words(
    kind: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["try", str(request.getfixturevalue(kind)), "--masked", "the [MASK] sat.", "--wrong", "the mat sat"]) == 0
    )
    shown = capfd.readouterr().out.splitlines()
    assert len(shown) == 1 + 5 + 1 + 3
    assert [line.split()[0] for line in shown[-3:]] == ["the", "mat", "sat"]


def test_a_sentence_as_long_as_the_model_is_taken_and_one_more_is_refused(
    exported: Path, refusal: Callable[..., str]
) -> None:
    longest = "the " * 9 + "[MASK]"
    assert main(["try", str(exported), "--masked", longest, "--wrong", "the " * 10]) == 0
    assert "has 13 tokens, and the model takes at most 12" in refusal(exported, "--masked", f"the {longest}")
    line = refusal(exported, "--masked", longest, "--wrong", "cat " * 5000)
    assert "has 5002 tokens" in line
    assert len(line) < 300


@pytest.mark.parametrize("masked", ["the cat", "", "   ", "[MASK] on [MASK]", "[mask]"])
def test_a_sentence_needs_exactly_one_mask(exported: Path, refusal: Callable[..., str], masked: str) -> None:
    assert "write exactly one" in refusal(exported, "--masked", masked)


@pytest.mark.parametrize("wrong", ["", " \t "])
def test_a_sentence_needs_a_word(exported: Path, refusal: Callable[..., str], wrong: str) -> None:
    assert "has no word" in refusal(exported, "--masked", "[MASK]", "--wrong", wrong)


@pytest.mark.parametrize("option", ["--masked", "--wrong"])
def test_a_sentence_of_bytes_that_are_no_text_is_refused(
    exported: Path, refusal: Callable[..., str], option: str
) -> None:
    assert "is not text in UTF-8" in refusal(exported, option, "the [MASK] \udcff")


def test_an_export_of_one_network_alone_is_shown(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported / "discriminator", tmp_path / "alone/discriminator")
    assert main(["try", str(tmp_path / "alone"), "--wrong", "the mat"]) == 0
    assert "holds no generator" in capfd.readouterr().out
    shutil.copytree(exported / "generator", tmp_path / "other/generator")
    assert main(["try", str(tmp_path / "other"), "--masked", "the [MASK]"]) == 0
    assert "holds no discriminator, so no token is scored" in capfd.readouterr().out


def test_what_is_no_export_is_refused(exported: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "file", tmp_path / "empty", tmp_path / "none", "org/model", exported / "discriminator"):
        assert "holds no export" in refusal(place)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _with(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def _halved(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _bert(folder: Path) -> None:
    config = BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(folder)


def _wider(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"hidden_size": 16}))


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink()


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _longer_tokenizer(folder: Path) -> None:
    words = {word: index for index, word in enumerate([*WORDS, "more", "words"])}
    save_tokenizer(folder / "new", wordpiece_tokenizer(words, True))
    shutil.copy(folder / "new/tokenizer/tokenizer.json", folder)


@pytest.mark.parametrize("network", ["discriminator", "generator"])
@pytest.mark.parametrize(
    "spoil",
    [
        _without("config.json"),
        _without("model.safetensors"),
        _with("config.json", b"{"),
        _with("config.json", b"{}"),
        _with("config.json", b"\xff\xfe"),
        _with("model.safetensors", b""),
        _with("tokenizer.json", b"[]"),
        _halved,
        _bert,
        _wider,
        _no_tokenizer,
        _emptied,
        _longer_tokenizer,
    ],
)
def test_a_damaged_export_is_refused(
    exported: Path, tmp_path: Path, refusal: Callable[..., str], network: str, spoil: Callable[[Path], None]
) -> None:
    shutil.copytree(exported, tmp_path / "out")
    spoil(tmp_path / "out" / network)
    assert network in refusal(tmp_path / "out", "--masked", "the [MASK]")


def test_networks_in_each_others_place_are_refused(exported: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    shutil.copytree(exported / "generator", tmp_path / "out/discriminator")
    shutil.copytree(exported / "discriminator", tmp_path / "out/generator")
    assert "holds no generator: it lacks" in refusal(tmp_path / "out", "--masked", "the [MASK]")
