"""Sizes, initial weights, packed rows and shared parts of the networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data_pipeline.errors import UserError
from electra_scale.model.attention.layout import Layout, attention_mask, positions_from_segments
from electra_scale.model.attention.tokens import Rows
from electra_scale.model.cost import discriminator_flops, generator_flops, parameter_counts
from electra_scale.model.electra import Electra
from electra_scale.recipe.model import BertSettings, EncoderSize, ModelConfig, ModernSettings
from tests.support.instruments.logits import discriminator_logits

from .conftest import VOCAB, modern, rough_model


def rows(count: int, positions: int) -> Layout:
    """Rows of one segment each."""
    return Layout.of(torch.zeros(count, positions, dtype=torch.int64))


def test_positions_restart_with_each_segment() -> None:
    segment = torch.tensor([[0, 0, 0, 1, 1, 2, -1, -1], [4, 4, 4, 4, 4, 4, 4, 4], [-1] * 8])
    assert positions_from_segments(segment).tolist() == [
        [0, 1, 2, 0, 1, 0, 0, 1],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 7],
    ]
    assert positions_from_segments(segment.to(torch.int16)).dtype == torch.int64
    assert positions_from_segments(segment[:, :1]).tolist() == [[0], [0], [0]]


def test_attention_stays_inside_a_segment() -> None:
    segment = torch.tensor([[0, 0, 1, -1, -1]])
    mask = attention_mask(segment)
    assert mask.shape == (1, 1, 5, 5)
    assert mask.dtype == torch.bool
    for i in range(5):
        for j in range(5):
            assert bool(mask[0, 0, i, j]) == (segment[0, i] == segment[0, j])
    assert mask.any(-1).all()


def test_no_mask_where_each_row_is_one_segment() -> None:
    assert Layout.of(torch.tensor([[0, 0], [3, 3]])).mask(torch.float32) is None
    assert Layout.of(torch.tensor([[0, 0], [3, -1]])).mask(torch.float32) is not None


def test_a_layout_knows_where_segments_begin_and_which_is_longest() -> None:
    layout = Layout.of(torch.tensor([[0, 0, 0, 1, 1, -1], [2, 2, 2, 2, 3, 4]]))
    assert layout.boundaries.tolist() == [0, 3, 5, 6, 10, 11, 12]
    assert layout.boundaries.dtype == torch.int32
    assert layout.longest == 4
    assert not layout.whole


def test_states_of_inner_layers_are_given_where_asked(tiny: ModelConfig) -> None:
    model = rough_model(tiny)
    ids = torch.randint(0, VOCAB, (2, 9))
    layout = rows(2, 9)
    with torch.no_grad():
        hidden = model.discriminator_hidden(ids, layout, depths=(0, 1))
        assert set(hidden.at) == {0, 1}
        assert hidden.at[0].shape == hidden.last.shape
        after = model.discriminator.layers[1](hidden.at[1], Rows(layout))
    assert torch.equal(after, hidden.last)


@pytest.mark.parametrize("architecture", [BertSettings(), ModernSettings(window=4)])
@pytest.mark.parametrize("layers", [1, 2])
def test_states_asked_for_at_some_positions_are_those_of_a_whole_pass_with_their_gradients(
    layers: int, architecture: Any
) -> None:
    """On packed rows, with padding; what comes after the last attention is not computed elsewhere."""
    size = EncoderSize(layers, 32, 48, 4)
    config = ModelConfig(vocab_size=VOCAB, embedding=16, discriminator=size, generator=size, architecture=architecture)
    ids = torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))
    layout = Layout.of(torch.tensor([[0, 0, 0, 1, 1, 2, -1], [3] * 7]))
    only = torch.tensor([0, 4, 5, 7, 13])
    seen = []
    for positions in (None, only):
        model = rough_model(config)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            hidden = model.generator_hidden(ids, layout, positions)
        hidden = hidden.flatten(0, 1)[only] if positions is None else hidden
        hidden.square().sum().backward()
        gradients = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
        seen.append((hidden.detach(), gradients, counter.get_total_flops()))
    (whole, of_whole, all_flops), (some, of_some, fewer_flops) = seen
    torch.testing.assert_close(some, whole, atol=1e-5, rtol=1e-5)
    assert of_some.keys() == of_whole.keys()
    for name, gradient in of_some.items():
        torch.testing.assert_close(gradient, of_whole[name], atol=1e-4, rtol=1e-4, msg=name)
    products = 4 if architecture.kind == "bert" else 6
    left_out = (ids.numel() - len(only)) * (2 * size.hidden**2 + products * size.hidden * size.ffn)
    assert all_flops - fewer_flops == left_out


def test_a_model_without_a_generator_starts_as_one_with_it(either: ModelConfig) -> None:
    alone, both = Electra(either, seed=3, with_generator=False).state_dict(), Electra(either, seed=3).state_dict()
    assert not any("generator" in name for name in alone)
    assert all(torch.equal(value, both[name]) for name, value in alone.items())


def test_packed_row_equals_its_segments_alone(either: ModelConfig) -> None:
    model = rough_model(either)
    first, second = torch.randint(0, VOCAB, (1, 11)), torch.randint(0, VOCAB, (1, 7))
    ids = torch.cat([first, second, torch.zeros(1, 6, dtype=torch.int64)], dim=1)
    segment = torch.tensor([[0] * 11 + [1] * 7 + [-1] * 6])
    layout = Layout.of(segment)
    with torch.no_grad():
        hidden = model.generator_hidden(ids, layout)
        logits = discriminator_logits(model, ids, layout)
        start = 0
        for alone in (first, second):
            stop = start + alone.shape[1]
            whole = rows(1, alone.shape[1])
            expected = model.generator_hidden(alone, whole)
            torch.testing.assert_close(hidden[:, start:stop], expected, atol=1e-5, rtol=0)
            expected = discriminator_logits(model, alone, whole)
            torch.testing.assert_close(logits[:, start:stop], expected, atol=1e-5, rtol=0)
            start = stop
    assert hidden.isfinite().all()
    assert logits.isfinite().all()


@pytest.mark.parametrize("hidden", [16, 32])
def test_a_discriminator_that_starts_from_the_generator_computes_what_it_computes(hidden: int) -> None:
    """With a projection from the embeddings and without, on packed rows, after every layer."""
    size = EncoderSize(2, hidden, 48, 4)
    model = rough_model(ModelConfig(vocab_size=VOCAB, embedding=16, discriminator=size, generator=size))
    ids = torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))
    layout = Layout.of(torch.tensor([[0, 0, 0, 1, 1, 2, -1], [3] * 7]))
    head = {name: value.clone() for name, value in model.discriminator_head.state_dict().items()}
    before = model.discriminator_hidden(ids, layout).last
    model.start_discriminator_from_generator()
    after = model.discriminator_hidden(ids, layout).last
    assert not torch.allclose(before, after)
    assert torch.equal(after, model.generator_hidden(ids, layout))
    assert all(torch.equal(value, head[name]) for name, value in model.discriminator_head.state_dict().items())
    # A copy: the two go their own ways from there.
    with torch.no_grad():
        for parameter in model.discriminator.parameters():
            parameter.add_(1.0)
    assert torch.equal(model.generator_hidden(ids, layout), after)


def test_dropout_acts_in_training_only(either: ModelConfig) -> None:
    model = rough_model(either)
    ids, layout = torch.randint(0, VOCAB, (2, 9)), rows(2, 9)
    with torch.no_grad():
        assert torch.equal(*(discriminator_logits(model, ids, layout) for _ in range(2)))
        model.train()
        assert not torch.equal(*(discriminator_logits(model, ids, layout) for _ in range(2)))


def test_initial_weights_follow_from_the_seed_alone(either: ModelConfig) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Electra(either, seed=5).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again = Electra(either)
    assert not torch.equal(first["embeddings.word.weight"], again.state_dict()["embeddings.word.weight"])
    again.initialise(5)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.items())


def test_initial_weights_of_one_part_ignore_the_others(either: ModelConfig) -> None:
    other = replace(either, generator=EncoderSize(1, 32, 64, 1))
    state = Electra(other).state_dict()
    for name, value in Electra(either).state_dict().items():
        if name.split(".")[0] in {"embeddings", "discriminator", "discriminator_head"}:
            assert torch.equal(value, state[name])


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_heads_that_start_with_neighbours_attend_to_them(heads: int) -> None:
    size = EncoderSize(2, 64, 96, heads)
    sizes = {"vocab_size": VOCAB, "embedding": 64, "discriminator": size, "generator": size}
    model = Electra(ModelConfig(**sizes, init_std=0.05, position_init="neighbours")).eval()
    ids = torch.randint(VOCAB, (4, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        # Words disturb a little; in the last columns of co-occurrence embeddings they are small.
        model.word_embeddings.zero_()
        model.embeddings.token_type.weight.zero_()
    for network in ("generator", "discriminator"):
        layer = getattr(model, network).layers[0]
        query, key, _ = layer.qkv(model.embeddings(ids, torch.arange(30).expand(4, 30))).chunk(3, -1)
        query, key = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key))
        attention = (query @ key.transpose(-1, -2) / (64 // heads) ** 0.5).softmax(-1)
        for head, offset in enumerate((-1, 1, -2, 2)[:heads]):
            mean = attention[:, head, 5:25].mean(0)
            place = torch.arange(5, 25) + offset
            assert torch.equal(mean.argmax(-1), place)
    # The rest of the weights, also of heads beyond the fourth, starts as without.
    model.initialise(0)
    plain = Electra(ModelConfig(**sizes, init_std=0.05, position_init="sinusoidal"))
    same = {name for name, value in plain.state_dict().items() if torch.equal(value, model.state_dict()[name])}
    qkv = {f"{network}.layers.0.qkv.weight" for network in ("generator", "discriminator")}
    assert set(plain.state_dict()) - same == {"embeddings.position.weight", *qkv}
    ours, theirs = (one.generator.layers[0].qkv.weight.unflatten(0, (3, heads, -1)) for one in (model, plain))
    assert torch.equal(ours[2], theirs[2])
    assert torch.equal(ours[:, 4:], theirs[:, 4:])


def test_initial_values_are_berts(tiny: ModelConfig) -> None:
    for name, parameter in Electra(tiny).named_parameters():
        if parameter.dim() > 1:
            assert parameter.abs().max() <= 0.04, name
            if parameter.numel() > 4000:
                # A normal of deviation 0.02 cut at two deviations has deviation 0.0176.
                assert abs(parameter.std().item() - 0.0176) < 5e-4, name
        else:
            is_norm_weight = "norm" in name and name.endswith("weight")
            assert parameter.eq(1.0 if is_norm_weight else 0.0).all(), name


def test_both_networks_train_the_shared_embeddings_and_nothing_else_in_common(either: ModelConfig) -> None:
    model = rough_model(either)
    ids, layout = torch.randint(0, VOCAB, (2, 9)), rows(2, 9)
    model.generator_hidden(ids, layout).square().sum().backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"embeddings", "generator"}
    model.zero_grad()
    discriminator_logits(model, ids, layout).square().sum().backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"embeddings", "discriminator", "discriminator_head"}


def test_parameter_counts_are_those_of_the_model(preset: ModelConfig) -> None:
    model, counts = Electra(preset), parameter_counts(preset)
    for part in ("embeddings", "generator", "generator_head", "discriminator", "discriminator_head"):
        assert getattr(counts, part) == sum(p.numel() for p in getattr(model, part).parameters())
    assert counts.total == sum(p.numel() for p in model.parameters())


def test_parameter_counts_of_the_modern_encoder_are_those_of_the_model() -> None:
    """With projections to the networks' widths and without."""
    for embedding in (16, 32, 24):
        config = modern(embedding)
        model, counts = Electra(config), parameter_counts(config)
        for part in ("embeddings", "generator", "generator_head", "discriminator", "discriminator_head"):
            assert getattr(counts, part) == sum(p.numel() for p in getattr(model, part).parameters())


def test_flops_are_those_torch_counts(either: ModelConfig) -> None:
    model = rough_model(either)
    ids, layout = torch.randint(0, VOCAB, (2, 32)), rows(2, 32)
    # The counter does not know the CPU's fused attention, but the products of the plain one.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hidden = model.generator_hidden(ids, layout, only=torch.arange(16))
        model.generator_head(hidden) @ model.word_embeddings.T
    planned = generator_flops(either, 32, masked_share=16 / 64) + beyond_the_window(either, either.generator, 32)
    assert counter.get_total_flops() == 64 * planned
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        discriminator_logits(model, ids, layout)
    planned = discriminator_flops(either, 32) + beyond_the_window(either, either.discriminator, 32)
    assert counter.get_total_flops() == 64 * planned


def beyond_the_window(config: ModelConfig, size: EncoderSize, positions: int) -> float:
    """Operations per token that a row under a mask costs in layers with a window, and that are not counted."""
    if config.architecture.kind == "bert":
        return 0.0
    local = sum(index % config.architecture.global_every > 0 for index in range(size.layers))
    return float(local * 4 * (positions - config.architecture.window - 1) * size.hidden)


def test_impossible_sizes_are_refused_in_one_line(tiny: ModelConfig) -> None:
    with pytest.raises(UserError, match=r"hidden 100 .* heads 3"):
        EncoderSize(2, 100, 400, 3)
    with pytest.raises(UserError, match=r"layers is 0"):
        EncoderSize(0, 100, 400, 4)
    with pytest.raises(UserError, match=r"model\.dropout is 1\.0"):
        replace(tiny, dropout=1.0)
    with pytest.raises(UserError, match=r"vocab_size is 0"):
        replace(tiny, vocab_size=0)
