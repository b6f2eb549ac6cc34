"""The modern encoder leaves for transformers' ModernBert classes and comes back with the same numbers."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertForTokenClassification

from data_pipeline.errors import UserError
from electra_scale.model.architectures.folding import split, unfold
from electra_scale.model.architectures.modern_encoder import rotate, rotation
from electra_scale.model.attention.layout import Layout
from electra_scale.model.attention.tokens import Rows
from electra_scale.model.electra import Electra
from electra_scale.model.hf import export, import_checkpoint
from electra_scale.recipe.model import BertSettings, EncoderSize, ModernSettings

from .conftest import VOCAB, modern, rough_model, roughen

NETWORKS = {"discriminator": ModernBertForTokenClassification, "generator": ModernBertForMaskedLM}


TASKS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")
SIZES = {
    "narrow generator": modern(window=128),
    "both as wide as the table": modern(generator=EncoderSize(2, 32, 24, 2)),
    "both wider than the table": modern(embedding=8),
    "22 layers": modern(discriminator=EncoderSize(22, 32, 48, 4)),
}


def batch(positions: int, padded: bool, rows: int = 3) -> tuple[Tensor, Tensor]:
    """(B,S) ids and segment, rows cut short where padded."""
    ids = torch.randint(5, VOCAB, (rows, positions), generator=torch.Generator().manual_seed(3))
    segment = torch.zeros_like(ids)
    if padded:
        for row in range(rows):
            end = positions * (rows - row) // (rows + 1)
            ids[row, end:], segment[row, end:] = 0, -1
    return ids, segment


@torch.no_grad()
def assert_same(model: Electra, network: str, theirs: Any, ids: Tensor, segment: Tensor, most: float = 1e-5) -> None:
    """States after each layer, the last one normalised, and the logits."""
    layout, encoder = Layout.of(segment), getattr(model, network)
    hidden = encoder(model.embeddings(ids, layout.positions), layout, range(len(encoder.layers) + 1))
    if network == "discriminator":
        logits = model.discriminator_head(hidden.last)
    else:
        assert model.generator_head is not None
        logits = model.generator_head(hidden.last) @ model.word_embeddings.T + model.generator_head.bias
    last: list[Tensor] = []
    hook = theirs.model.register_forward_hook(lambda *call: last.append(call[-1].last_hidden_state))
    real = segment >= 0
    output = theirs.eval()(ids, attention_mask=real.long(), output_hidden_states=True)
    hook.remove()
    states = [*output.hidden_states[:-1], *last]
    assert len(states) == len(hidden.at)
    for mine, other in zip(hidden.at.values(), states, strict=True):
        assert (mine - other)[real].abs().max() < most
    assert (logits - output.logits.view_as(logits))[real].abs().max() < most


@pytest.mark.parametrize("name", SIZES)
def test_export_and_import_keep_states_and_logits(name: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    """Rows shorter and longer than the window, padded and not; both networks, both kinds of layers."""
    model, again = rough_model(SIZES[name]), Electra(SIZES[name], seed=9).eval()
    export(model, tokenizer_dir, tmp_path / "out")
    import_checkpoint(tmp_path / "out", None, again)
    most = 2e-5 if name == "22 layers" else 1e-5
    for network, kind in NETWORKS.items():
        theirs = kind.from_pretrained(tmp_path / "out" / network)
        for positions in (64, 65, 66, 200) if name == "narrow generator" else (40,):
            for padded in (False, True):
                assert_same(model, network, theirs, *batch(positions, padded), most)
        # A projection that was folded comes back up to rounding.
        assert_same(again, network, theirs, *batch(40, padded=True), 2 * most)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("positions", [1024, 8192])
def test_long_rows_have_the_states_and_logits_of_transformers(
    positions: int, network: str, tokenizer_dir: Path, tmp_path: Path
) -> None:
    model = rough_model(modern(16, EncoderSize(2, 16, 8, 1), EncoderSize(2, 8, 8, 1), positions=8192, window=128))
    export(model, tokenizer_dir, tmp_path / "out")
    theirs = NETWORKS[network].from_pretrained(tmp_path / "out" / network)
    for padded in (False, True) if positions == 1024 else (network == "generator",):
        assert_same(model, network, theirs, *batch(positions, padded, rows=1))


def test_a_window_reaches_half_of_it_on_each_side_and_no_farther() -> None:
    """By gradients of one layer with a window, on a row of two segments."""
    model = rough_model(modern(window=128))
    layer, layout = model.discriminator.layers[1], Layout.of((torch.arange(300) >= 210).long()[None])
    hidden = torch.randn(1, 300, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    turn = rotation(layout.positions, 8, 10000.0)
    (slope,) = torch.autograd.grad(layer(hidden, Rows(layout), turn)[0, 160].square().sum(), hidden)
    reached = slope[0].abs().sum(-1) > 0
    assert torch.equal(reached.nonzero().flatten(), torch.arange(160 - 64, 210))


def whole(positions: int) -> Layout:
    """Rows of one segment each."""
    return Layout.of(torch.zeros(2, positions, dtype=torch.int64))


def test_rows_no_longer_than_half_the_window_need_no_mask() -> None:
    assert whole(65).mask(torch.float32, 128) is None
    assert whole(66).mask(torch.float32, 128) is not None
    packed = Layout.of(torch.tensor([[0] * 5 + [1] * 4]))
    assert packed.mask(torch.float32, 8) is packed.mask(torch.float32)
    assert packed.mask(torch.float32, 6) is not packed.mask(torch.float32)
    assert packed.mask(torch.float32, 6) is packed.mask(torch.float32, 6)


def test_a_published_pair_is_imported_with_the_same_states_and_logits(tmp_path: Path) -> None:
    """Made by transformers alone; the generator's table and decoder are the shared one, as it is."""
    config = modern(generator=EncoderSize(2, 32, 24, 2))
    model, made = Electra(config).eval(), {}
    for network, kind in NETWORKS.items():
        theirs: Any = kind(replaced_by(model, network))
        roughen(theirs, 7)
        made[network] = theirs
    words = made["discriminator"].model.embeddings.tok_embeddings.weight.detach().clone()
    with torch.no_grad():
        made["generator"].model.embeddings.tok_embeddings.weight.copy_(words)
    for network, theirs in made.items():
        theirs.save_pretrained(tmp_path / network)
    import_checkpoint(tmp_path, None, model)
    for network, theirs in made.items():
        for padded in (False, True):
            assert_same(model, network, theirs, *batch(40, padded))


def replaced_by(model: Electra, network: Any) -> Any:
    """The configuration of an export, for models that transformers makes."""
    found = model.architecture.transformers_config(network)
    found.pad_token_id = 0
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_transformers_has_nothing_to_say_about_a_configuration(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its default ids of special tokens lie outside of a small vocabulary."""
    said: list[str] = []
    for name in ("warning", "warning_once"):
        monkeypatch.setattr(transformers.configuration_utils.logger, name, lambda text, *_: said.append(text))
    found = rough_model(modern()).architecture.transformers_config(network)
    assert (found.sep_token_id, found.pad_token_id, said) == (None, None, [])


def test_an_export_of_networks_as_wide_as_the_table_comes_back_bit_equal(tokenizer_dir: Path, tmp_path: Path) -> None:
    config = SIZES["both as wide as the table"]
    model, other = rough_model(config), Electra(config, seed=9)
    export(model, tokenizer_dir, tmp_path / "out")
    import_checkpoint(tmp_path / "out", None, other)
    restored = other.state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in model.state_dict().items())
    theirs: Any = ModernBertForMaskedLM.from_pretrained(tmp_path / "out/generator")
    assert theirs.decoder.weight is theirs.model.embeddings.tok_embeddings.weight


@pytest.mark.parametrize(
    "kind", ["Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
)
def test_a_discriminator_opens_as_an_encoder_for_every_task(kind: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    model = rough_model(modern(window=128))
    export(model, tokenizer_dir, tmp_path / "out", networks=["discriminator"])
    folder = str(tmp_path / "out/discriminator")
    for family in ("ModernBert", "Auto" if kind == "Model" else "AutoModel"):
        loader = getattr(transformers, f"{family}{kind}")
        options = {} if kind == "Model" else {"num_labels": 2, "ignore_mismatched_sizes": True}
        theirs, info = loader.from_pretrained(folder, output_loading_info=True, **options)
        assert not info["missing_keys"]
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        encoded = tokenizer(["the cat sat", "the dog ran on the hill"], padding=True, return_tensors="pt")
        with torch.no_grad():
            output = theirs.eval()(**encoded)
        encoder = theirs if kind == "Model" else theirs.model
        layout = Layout.of(encoded["attention_mask"] - 1)
        with torch.no_grad():
            states = encoder(encoded["input_ids"], encoded["attention_mask"]).last_hidden_state
            expected = model.discriminator_hidden(encoded["input_ids"], layout).last
        real = encoded["attention_mask"].bool()
        assert (states - expected)[real].abs().max() < 1e-5
        assert output[0].isfinite().all()


def test_exported_settings_are_the_models_and_the_tokenizers(tokenizer_dir: Path, tmp_path: Path) -> None:
    export(Electra(modern()), tokenizer_dir, tmp_path / "out")
    for network, kind in NETWORKS.items():
        settings = transformers.AutoConfig.from_pretrained(tmp_path / "out" / network)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / network)
        assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
        assert settings.architectures == [kind.__name__]
        assert settings.num_labels == (1 if network == "discriminator" else 2)
        assert (settings.pad_token_id, settings.cls_token_id, settings.sep_token_id) == (0, 2, 3)
        assert settings.attention_dropout == settings.mlp_dropout == settings.classifier_dropout == 0.1
        # What is not said is what a plain configuration of transformers has.
        plain = ModernBertConfig(num_hidden_layers=settings.num_hidden_layers)
        for name in ("layer_types", "rope_parameters", "norm_eps", "norm_bias", "classifier_bias", "decoder_bias"):
            assert getattr(settings, name) == getattr(plain, name)


def test_import_refuses_what_does_not_fit(tokenizer_dir: Path, tmp_path: Path) -> None:
    config = modern(generator=EncoderSize(2, 32, 24, 2))
    export(rough_model(config), tokenizer_dir, tmp_path / "out")
    for change, words in (
        ({"architecture": ModernSettings(window=16)}, "window 8 there, 16 here"),
        ({"architecture": ModernSettings(window=8, global_every=2)}, "layer_types .* there"),
        ({"architecture": ModernSettings(window=8, local_theta=5.0)}, "local_theta 10000.0 there, 5.0 here"),
        ({"discriminator": EncoderSize(4, 32, 64, 4)}, "discriminator.ffn 48 there, 64 here"),
        ({"embedding": 40}, "model.embedding is 40, .* set model.embedding to 32"),
        ({"architecture": BertSettings()}, "model_type modernbert there, electra here"),
    ):
        with pytest.raises(UserError, match=words):
            import_checkpoint(tmp_path / "out", None, Electra(replace(config, **change)))
    with pytest.raises(UserError, match="num_labels 2 there, 1 here"):
        import_checkpoint(tmp_path / "out/generator", None, Electra(replace(config, discriminator=config.generator)))


def test_a_pair_that_shares_no_table_is_told(
    tokenizer_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = modern()
    export(rough_model(config), tokenizer_dir, tmp_path / "one")
    export(rough_model(config, seed=5), tokenizer_dir, tmp_path / "other")
    with caplog.at_level(logging.WARNING):
        import_checkpoint(tmp_path / "one/discriminator", tmp_path / "one/generator", Electra(config))
        assert caplog.text == ""
        import_checkpoint(tmp_path / "one/discriminator", tmp_path / "other/generator", Electra(config))
    assert "are no projection of a table of width 32" in caplog.text


def test_a_folded_table_is_taken_apart_again() -> None:
    random = torch.Generator().manual_seed(0)
    table, matrix = torch.randn(60, 8, generator=random), torch.randn(8, 20, generator=random)
    found, lost = unfold(table, table @ matrix)
    torch.testing.assert_close(found, matrix)
    assert lost < 1e-6
    columns, rows_of, lost = split(table @ matrix, 8)
    torch.testing.assert_close(columns @ rows_of, table @ matrix, atol=1e-5, rtol=1e-5)
    assert lost < 1e-6
    # One direction of eight is left out.
    assert split(table @ matrix, 7)[2] > 0.01
    assert unfold(table[:, :7], table)[1] > 0.01


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": ModernSettings(window=7)}, "architecture.window is 7"),
        ({"architecture": ModernSettings(global_every=0)}, "architecture.global_every is 0"),
        ({"architecture": ModernSettings(local_theta=0.0)}, "architecture.local_theta is 0.0"),
        ({"discriminator": EncoderSize(2, 12, 24, 4)}, "model.discriminator has heads of width 3"),
        ({"position_init": "sinusoidal"}, "model.position_init is sinusoidal"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(modern(), **settings)


@pytest.mark.parametrize("heads", [2, 4])
def test_heads_that_start_with_neighbours_attend_to_them(heads: int) -> None:
    """Whatever the words are; other weights start as without."""
    size = EncoderSize(2, 128, 96, heads)
    config = replace(modern(128, size, size), init_std=0.05, position_init="neighbours")
    model = Electra(config)
    ids = torch.randint(VOCAB, (4, 200), generator=torch.Generator().manual_seed(1))
    layout = Layout.of(torch.zeros_like(ids))
    for encoder in (model.generator, model.discriminator):
        layer: Any = encoder.layers[0]
        states = layer.qkv(encoder.norm(model.embeddings(ids, layout.positions))).unflatten(-1, (3, heads, -1))
        turn = rotation(layout.positions, 128 // heads, layer.theta)
        query, key = rotate(states[:, :, :2], turn).transpose(1, 3).unbind(2)
        attention = (query @ key.transpose(-1, -2) / (128 // heads) ** 0.5).softmax(-1)
        for head, offset in enumerate((-1, 1, -2, 2)[:heads]):
            inner = torch.arange(5, 195)
            reached = attention[:, head, inner, inner + offset]
            assert reached.mean() > 0.5
            assert (attention[:, head, inner].argmax(-1) == inner + offset).float().mean() > 0.9
    model.initialise(0)
    plain = Electra(replace(config, position_init="normal")).state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, plain[name])}
    qkv = {f"{network}.layers.0.qkv.weight" for network in NETWORKS}
    assert changed == {"embeddings.word.weight", *qkv}
    words = model.word_embeddings.detach().clone()
    words[:, -1] = plain["embeddings.word.weight"][:, -1]
    assert torch.equal(words, plain["embeddings.word.weight"])
    with torch.no_grad():
        model.word_embeddings.zero_()
    model.hold_constant()
    assert model.word_embeddings[:, -1].unique().tolist() == [pytest.approx(0.05 * 128**0.5)]


def test_initial_values_are_modernberts() -> None:
    config = modern(32, EncoderSize(8, 32, 160, 4), EncoderSize(2, 16, 160, 2))
    deviation = 0.88 * 0.02
    for name, parameter in Electra(config).named_parameters():
        if parameter.dim() == 1:
            assert parameter.eq(0.0 if name.endswith("bias") else 1.0).all(), name
            continue
        expected = deviation
        if "_out" in name or "head.dense" in name:
            expected *= (2 * (8 if name.startswith("discriminator") else 2)) ** -0.5
        if "project" in name:
            expected = 0.88 * parameter.shape[1] ** -0.5
        assert parameter.std().item() == pytest.approx(expected, rel=0.12), name
