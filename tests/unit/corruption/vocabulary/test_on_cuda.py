"""The pass over the vocabulary on a CUDA device: kernels against torch's operations. ``make gpu`` runs these."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from electra_scale.corruption.sampler import Masked, Sampler
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.vocabulary import vocabulary_pass
from electra_scale.corruption.vocabulary.device_kernels import kernels_of
from electra_scale.corruption.vocabulary.sweeps import FusedSweeps, TorchSweeps
from electra_scale.recipe.corruption import GeneratorSettings
from electra_scale.recipe.model import EncoderSize, ModelConfig

pytestmark = pytest.mark.cuda

CUDA = torch.device("cuda")
V, E, H, M = 5003, 64, 48, 37
MODEL = ModelConfig(
    vocab_size=V,
    embedding=E,
    discriminator=EncoderSize(1, H, H, 2),
    generator=EncoderSize(1, H, H, 2),
    max_positions=8,
)


def masked_of(dtype: torch.dtype) -> Masked:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(CUDA, dtype).requires_grad_()

    return Masked(
        features=random(M, E),
        word_embeddings=random(V, E),
        bias=random(V),
        hidden=random(M, H),
        original=torch.randint(V, (M,), generator=generator).to(CUDA),
        uniform=torch.rand(M, generator=generator, dtype=torch.float64).to(CUDA),
    )


def sampler_of(name: str) -> Sampler:
    sampler = build_sampler(replace(GeneratorSettings(), sampler=name), MODEL, seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return sampler.to(CUDA)


def test_the_kernels_work_here() -> None:
    assert kernels_of(CUDA) is not None, "the log says why not"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["electra", "temperature", "hp_loss", "hp_dist", "two_scalars"])
def test_kernels_and_torchs_operations_give_the_same(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, found, kernels = sampler_of(name), [], kernels_of(CUDA)
    assert kernels is not None
    for form in (partial(FusedSweeps, kernels=kernels), TorchSweeps):
        monkeypatch.setattr(vocabulary_pass, "sweeps_of", lambda _, __, strip, form=form: form(strip))
        masked = masked_of(dtype)
        given = vocabulary_pass.vocabulary_pass(masked, sampler, 1.0, entropy=True)
        assert given.drawn is not None
        gradients = torch.autograd.grad(given.loss, [masked.features, masked.word_embeddings, masked.bias])
        found.append((given, given.drawn, gradients))
    (one, drawn, gradients), (other, expected, of_torch) = found
    assert torch.equal(drawn.tokens, expected.tokens)
    for first, second in (
        (one.loss, other.loss),
        (one.entropy, other.entropy),
        (drawn.weight, expected.weight),
        (drawn.log_p, expected.log_p),
        *zip(gradients, of_torch, strict=True),
    ):
        assert first is not None
        assert second is not None
        torch.testing.assert_close(
            first.float(), second.float(), rtol=2e-3 if dtype == torch.bfloat16 else 1e-4, atol=1e-5
        )
