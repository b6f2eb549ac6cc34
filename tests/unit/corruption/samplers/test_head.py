"""The sampling head starts as plain ELECTRA and can leave it."""

from __future__ import annotations

import pytest
import torch

from electra_scale.corruption.samplers.head import SamplingHead
from tests.support.instruments.head_scores import own, scores, scores_at

M, H, E, V = 13, 24, 20, 50


@pytest.fixture(params=[8, E], ids=["projected", "tied"])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, H, generator=random, requires_grad=True)
    words = (torch.randn(V, E, generator=random) * 0.02).requires_grad_()
    return hidden, words, torch.randint(0, V, (M,), generator=random)


def trained(head: SamplingHead) -> SamplingHead:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.3)
    return head


def test_output_is_zero_at_the_start(width: int) -> None:
    head = SamplingHead(H, E, width, own_token=True)
    hidden, words, tokens = inputs()
    assert scores(head, hidden, words).eq(0).all()
    assert scores_at(head, hidden, words, tokens).eq(0).all()
    assert own(head, hidden).eq(0).all()


def test_it_can_learn_from_the_start(width: int) -> None:
    head = SamplingHead(H, E, width, own_token=True)
    hidden, words, tokens = inputs()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    target = torch.linspace(-1.0, 1.0, M)
    losses = []
    for step in range(200):
        optimizer.zero_grad()
        loss = (scores_at(head, hidden, words, tokens) - target).square().mean()
        loss = loss + (own(head, hidden) + target).square().mean()
        loss.backward()
        losses.append(loss.item())
        grads = {name: p.grad.abs().max().item() for name, p in head.named_parameters() if p.grad is not None}
        if step == 0:
            assert grads["level.weight"] > 0
            assert grads["own_token.weight"] > 0
            assert max(grads.get("projected.weight", 0), grads.get("gain", 0)) > 0
        if step == 1:
            assert set(grads) == {name for name, _ in head.named_parameters()}
            assert min(grads.values()) > 0
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("level", [True, False])
def test_scores_at_equals_the_gathered_scores(width: int, level: bool) -> None:
    head = trained(SamplingHead(H, E, width, own_token=False, level=level))
    hidden, words, tokens = inputs()
    found = scores(head, hidden, words)
    assert found.shape == (M, V)
    assert found.std() > 0
    torch.testing.assert_close(scores_at(head, hidden, words, tokens), found.gather(1, tokens[:, None])[:, 0])


def test_chunks_of_the_vocabulary_give_the_same_scores(width: int) -> None:
    head = trained(SamplingHead(H, E, width, own_token=False))
    hidden, words, _ = inputs()
    features = head.features(hidden)
    offset = head.offset(features)[:, None]
    chunks = [features @ head.keys(words[start : start + 16]).T + offset for start in range(0, V, 16)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), scores(head, hidden, words))


def test_word_embeddings_get_no_gradient(width: int) -> None:
    head = trained(SamplingHead(H, E, width, own_token=False))
    hidden, words, _ = inputs()
    scores(head, hidden, words).square().sum().backward()
    assert hidden.grad is not None
    assert words.grad is None


def test_a_switched_off_part_is_not_created(width: int) -> None:
    head = SamplingHead(H, E, width, own_token=False, level=False)
    names = {name.split(".")[0] for name, _ in head.named_parameters()}
    assert names == {"dense", "norm", "projected" if width != E else "gain"}
    assert head.own_token is None


def test_initial_weights_follow_from_the_seed_alone(width: int) -> None:
    state = torch.get_rng_state()
    first, same, other = (SamplingHead(H, E, width, own_token=True, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.dense.weight, same.dense.weight)
    assert not torch.equal(first.dense.weight, other.dense.weight)
