"""Replacements drawn from parameters that have moved since."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from electra_scale.corruption.ahead import Ahead
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from tests.unit.corruption.conftest import Case, V, masked_rows, random


@pytest.mark.parametrize("allow_original", [True, False])
@pytest.mark.parametrize("name", ["electra", "temperature", "hp_loss", "hp_dist", "two_scalars"])
def test_old_draws_estimate_the_expected_loss_under_the_generator_of_now(name: str, allow_original: bool) -> None:
    """Summed over all tokens: E_q_old[w l] = E_p_now[l] and E_q_old[w] = 1, exactly; p without originals if q is."""
    case = Case(name, mixture=0.1, exact=False, allow_original=allow_original)
    allowed = np.nonzero(case.q)[0]
    _, drawn = case.draw_each_token()
    ahead = Ahead(drawn.tokens, drawn.log_p, drawn.log_p - drawn.weight.log(), drawn.hardness)
    torch.testing.assert_close(ahead.log_q.double().exp(), torch.from_numpy(case.q[allowed]), rtol=1e-4, atol=1e-9)
    scores = torch.tensor(case.scores, dtype=torch.float32) + 1.5 * torch.randn(V, generator=random(6))
    now = masked_rows(scores.expand(len(allowed), V), torch.zeros(len(allowed), dtype=torch.float64))
    moved = ahead.weighted_for(now, propose(case.sampler, now))
    assert moved.tokens.tolist() == allowed.tolist()
    q, losses = torch.from_numpy(case.q[allowed]), torch.from_numpy(case.losses[allowed])
    p = torch.softmax(scores.double()[allowed], -1)
    assert float(q @ moved.weight.double()) == pytest.approx(1, rel=1e-5)
    assert float(q @ (moved.weight.double() * losses)) == pytest.approx(float(p @ losses), rel=1e-5)
    assert float(q @ (drawn.weight.double() * losses)) != pytest.approx(float(p @ losses), rel=1e-2)


def test_a_draw_from_parameters_that_have_not_moved_keeps_its_weight() -> None:
    case = Case("hp_loss", mixture=0.1, exact=False)
    masked, drawn = case.draw_each_token()
    ahead = Ahead(drawn.tokens, drawn.log_p, drawn.log_p - drawn.weight.log(), drawn.hardness)
    again = ahead.weighted_for(masked, propose(case.sampler, masked))
    torch.testing.assert_close(again.weight, drawn.weight, rtol=1e-5, atol=0)
