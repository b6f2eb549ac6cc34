"""A vocabulary small enough to enumerate, a head whose scores are given, and q and w written down naively."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from electra_scale.corruption.sampler import Draw, Masked, Sampler
from electra_scale.corruption.samplers.fixed import ElectraSampler, TemperatureSampler
from electra_scale.corruption.samplers.hp_dist import HardnessDistributionSampler
from electra_scale.corruption.samplers.hp_loss import HardnessLossSampler, TwoScalarSampler
from electra_scale.corruption.vocabulary import native_kernels
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.recipe.corruption import GeneratorSettings, SamplingHeadSettings
from electra_scale.recipe.model import EncoderSize, ModelConfig

V = 50
ORIGINAL = 7
HIDDEN, EMBEDDING = 6, V + 1
MODEL = ModelConfig(
    vocab_size=V,
    embedding=EMBEDDING,
    discriminator=EncoderSize(1, 8, 8, 2),
    generator=EncoderSize(1, HIDDEN, 8, 2),
    max_positions=8,
)

Array = NDArray[np.float64]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class GivenHead(nn.Module):
    """Stands in for a SamplingHead: the same scores (V,) at every position, and one for the original token."""

    def __init__(self, scores: Tensor, own: Tensor | None = None) -> None:
        super().__init__()
        self.table = scores
        self.own_score = own
        self.own_token = None if own is None else lambda features: features * own

    def features(self, hidden: Tensor) -> Tensor:
        return torch.ones(len(hidden), 1)

    def offset(self, features: Tensor) -> Tensor:
        return torch.zeros(len(features))

    def keys(self, word_embeddings: Tensor) -> Tensor:
        return self.table[(word_embeddings[:, 0] * 1000).round().long(), None]

    def scores_at(self, hidden: Tensor, word_embeddings: Tensor, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def own(self, hidden: Tensor) -> Tensor:
        assert self.own_score is not None
        return self.own_score.expand(len(hidden))


def softplus_inverse(value: Array) -> Array:
    return np.log(np.expm1(value))


class Case:
    """One position: the generator's scores, the discriminator's loss of every token, and a sampler with its q."""

    def __init__(
        self,
        name: str,
        mixture: float = 0.0,
        form: str = "rms",
        own_token: bool = True,
        temperature: float = 1.5,
        floor: float = 1e-12,
        exact: bool = True,
        spread: float = 1.2,
        seed: int = 0,
        allow_original: bool = True,
    ) -> None:
        random = np.random.default_rng(seed)
        self.scores = random.normal(0, spread, V).astype(np.float32).astype(np.float64)
        self.p = softmax(self.scores)
        self.losses = random.uniform(0.05, 3.0, V)
        # What the head believes: the truth, or something else.
        self.believed = self.losses if exact else random.uniform(0.05, 3.0, V)
        if name == "two_scalars":
            self.believed = np.where(np.arange(V) == ORIGINAL, self.believed[ORIGINAL], self.believed[0])
        head = SamplingHeadSettings(own_token=own_token, form=form, floor=floor)
        self.objective = GeneratorSettings(mixture=mixture, temperature=temperature, head=head)
        self.sampler = self.make_sampler(name)
        self.sampler.allow_original = allow_original
        allowed = np.ones(V)
        allowed[ORIGINAL] = allow_original
        # The generator's distribution over what may be drawn.
        self.drawable = normalised(self.p * allowed)
        hard = {
            "electra": self.drawable,
            "temperature": normalised(softmax(self.scores / temperature) * allowed),
            "hp_loss": normalised(self.drawable * self.believed),
            "hp_dist": normalised(self.drawable * self.believed),
            "two_scalars": normalised(self.drawable * self.believed),
        }[name]
        self.q = hard if name in ("electra", "temperature") else (1 - mixture) * hard + mixture * self.drawable
        self.q_unmixed = hard

    def make_sampler(self, name: str) -> Sampler:
        if name == "electra":
            return ElectraSampler()
        if name == "temperature":
            return TemperatureSampler(self.objective.temperature)
        settings = self.objective.head
        if name == "hp_dist":
            table = np.log(self.believed)
        else:
            above = self.believed - settings.floor
            table = softplus_inverse(above**2 if settings.form == "rms" else above)
        if name == "two_scalars":
            sampler = TwoScalarSampler(self.objective)
            with torch.no_grad():
                sampler.original_score.fill_(float(table[ORIGINAL]))
                sampler.other_score.fill_(float(table[0]))
            return sampler
        own = None
        if settings.own_token:
            # The vocabulary's own entry must not matter then.
            own = torch.tensor(table[ORIGINAL], dtype=torch.float32)
            table = table.copy()
            table[ORIGINAL] = 3.0
        head = GivenHead(torch.tensor(table, dtype=torch.float32), own)
        kind = HardnessLossSampler if name == "hp_loss" else HardnessDistributionSampler
        return kind(head, self.objective)

    def masked(self, uniform: Tensor) -> Masked:
        """The position, once per uniform number."""
        return masked_rows(torch.tensor(self.scores, dtype=torch.float32).expand(len(uniform), V), uniform)

    def draw_each_token(self) -> tuple[Masked, Draw]:
        """Draws of the tokens that q has, in order, each from the middle of its cell of the distribution function."""
        middle = np.cumsum(self.q) - self.q / 2
        masked = self.masked(torch.from_numpy(middle[self.q > 0]))
        drawn = propose(self.sampler, masked)
        assert drawn.tokens.tolist() == np.nonzero(self.q)[0].tolist()
        return masked, drawn


def masked_rows(scores: Tensor, uniform: Tensor) -> Masked:
    """Positions whose generator scores are ``scores`` (M, V), exactly: its embeddings are unit vectors.

    The first entry of an embedding names the token, for heads with a given table; the generator does not look at it.
    """
    rows = len(scores)
    embeddings = torch.cat([torch.arange(V)[:, None] / 1000, torch.eye(V)], 1)
    features = torch.cat([torch.zeros(rows, 1), scores], 1)
    hidden = torch.randn(rows, HIDDEN, generator=random(1))
    return Masked(features, embeddings, torch.zeros(V), hidden, torch.full((rows,), ORIGINAL), uniform)


def given_draw(tokens: Tensor) -> Draw:
    """Draws as if from p, for a sampler that looks at the tokens only."""
    ones = torch.ones(len(tokens))
    return Draw(tokens, ones, ones, ones, ones, ones)


def softmax(scores: Array) -> Array:
    return normalised(np.exp(scores - scores.max()))


def normalised(weights: Array) -> Array:
    return weights / weights.sum()


def varied(rows: int, seed: int = 0) -> Masked:
    """Rows of different scores, hidden states, originals and uniform numbers."""
    masked = masked_rows(
        3 * torch.randn(rows, V, generator=random(seed)),
        torch.rand(rows, generator=random(seed + 1), dtype=torch.float64),
    )
    masked.original = torch.randint(V, (rows,), generator=random(seed + 2))
    return masked


def objective(
    name: str, own_token: bool = True, form: str = "rms", mixture: float = 0.1, **head: Any
) -> GeneratorSettings:
    return GeneratorSettings(
        sampler=name,
        mixture=mixture,
        head=SamplingHeadSettings(own_token=own_token, form=form, width=4, **head),
    )


def roughened(sampler: Sampler, size: float = 0.5) -> Sampler:
    generator = random(9)
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return sampler


@pytest.fixture
def kernels(c_compiler: None) -> ModuleType:
    """The processor's own."""
    return native_kernels
