"""What the discriminator says about tokens, for tests that compare it with another implementation."""

from __future__ import annotations

from torch import Tensor

from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra


def discriminator_logits(model: Electra, ids: Tensor, layout: Layout) -> Tensor:
    """(B, S) logits that each token was replaced, positive for replaced."""
    logits: Tensor = model.discriminator_head(model.discriminator_hidden(ids, layout).last)
    return logits
