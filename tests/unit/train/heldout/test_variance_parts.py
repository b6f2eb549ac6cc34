"""Masks and draws anew against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from electra_scale.corruption.corruption import Clock
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.noise import uniforms
from electra_scale.train.heldout.variance_parts import mask_anew
from tests.unit.train.conftest import (
    SAMPLERS,
    S,
    discriminate,
    generator_of,
    make_loader,
    make_module,
    masked_positions,
)

ROWS, MASKS, DRAWS, SHARE = 3, 2, 3, 0.3


@pytest.mark.parametrize("name", ["hp_loss rms own", "partial hp_dist"])
def test_sums_are_those_of_a_plain_loop_over_rows_masks_and_draws(name: str) -> None:
    module = make_module(SAMPLERS[name]).eval()
    loader = make_loader(20, spread=True)
    clock = Clock(7, 0, "joint", 7, 10)
    found = mask_anew(module, loader, ROWS, MASKS, DRAWS, SHARE, 2, clock, torch.device("cpu"))
    samplers = {"p": ElectraSampler(), "q": generator_of(module).sampler_at(clock)}
    chosen = set()
    for row in range(ROWS):
        for mask in range(MASKS):
            position = np.array([row + mask * loader.samples])
            batch = loader.rows(position, SHARE)
            chosen.add((row, tuple(batch.masked.tolist())))
            sample = loader.order.places(position).sample
            assert found.tokens[row] == (batch.segment >= 0).sum()
            for draw in range(DRAWS):
                numbers = uniforms(loader.seed, np.array([mask * DRAWS + draw]), sample, S, "probe")[0]
                for source, sums in (("p", found.sum_p), ("q", found.sum_q)):
                    with torch.no_grad():
                        masked = masked_positions(module, batch)
                        masked.uniform = torch.from_numpy(numbers)[batch.masked]
                        drawn = propose(samplers[source], masked)
                        ids = batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens).view_as(batch.ids)
                        loss = (discriminate(module, ids, batch)[1] * (batch.segment >= 0)).flatten()
                    loss[batch.masked] *= drawn.weight
                    assert sums[row, mask, draw] == pytest.approx(float(loss.sum()), rel=1e-5)
    assert len(chosen) == ROWS * MASKS
