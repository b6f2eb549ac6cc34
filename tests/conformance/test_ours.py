"""Our trainer keeps every promise, with each architecture and each corruption that a recipe can choose."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.kinds import SEAMS
from tests.conformance.observed import Observed, observe
from tests.conformance.ours import OurTrainer, corruptions
from tests.conformance.promises import PROMISES

CORRUPTIONS = corruptions()


@functools.cache
def seen(architecture: str, corruption: str) -> Observed:
    return observe(OurTrainer(architecture, CORRUPTIONS[corruption]))


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("architecture", SEAMS["architecture"])
def test_our_trainer_keeps(architecture: str, corruption: str, promise: str) -> None:
    finding = PROMISES[promise](seen(architecture, corruption))
    without = not CORRUPTIONS[corruption].uses_generator
    assert finding.outcome == "kept" or (finding.outcome == "absent" and without), finding


class AttendsToPadding(OurTrainer):
    def layout(self, segment: Tensor) -> Layout:
        return Layout.of(torch.zeros_like(segment))


@pytest.mark.parametrize("corruption", ["random", "generator electra"])
@pytest.mark.parametrize("architecture", SEAMS["architecture"])
def test_attention_to_padding_would_be_found(architecture: str, corruption: str) -> None:
    trainer = AttendsToPadding(architecture, CORRUPTIONS[corruption])
    assert PROMISES["padding"](observe(trainer)).outcome == "broken"


def test_draws_that_carry_weights_are_seen_to_come_from_another_distribution() -> None:
    """Or the promise of the weights would be about ones."""
    for name, settings in CORRUPTIONS.items():
        step = seen("bert", name).first
        assert step.weights is not None
        weighted = bool((step.weights[step.masked] - 1).abs().max() > 0.05)
        assert weighted == (settings.uses_generator and settings.sampler != "electra"), name
