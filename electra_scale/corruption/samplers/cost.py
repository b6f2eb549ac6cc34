"""What a sampler adds to a step: parameters and floating-point operations, from the settings alone."""

from __future__ import annotations

from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.objective import ObjectiveConfig


def sampler_parameters(objective: ObjectiveConfig, model: ModelConfig) -> int:
    """Parameters of the sampler that :func:`electra_scale.corruption.samplers.build.build_sampler` makes."""
    if objective.sampler == "two_scalars":
        return 2
    if objective.sampler not in ("hp_loss", "hp_dist"):
        return 0
    width = objective.head.width
    keys = model.embedding * width if width != model.embedding else width
    scalars = (objective.sampler == "hp_loss") + objective.head.own_token
    return model.generator.hidden * width + width + 2 * width + keys + scalars * (width + 1)


def sampler_flops(objective: ObjectiveConfig, model: ModelConfig, masked: int) -> float:
    """Operations of the sampling head for a micro-batch with M = ``masked`` positions; forward, backward and the draw.

    With width K: the draw costs ``2 V E K [K != E]`` for keys and ``2 M V K`` for scores, which have no backward pass
    with hp_loss. That of hp_dist goes over the vocabulary again, ``2 M V (E + 3 K)``, and through the keys. What is
    left is ``O(M K (H + E))``.
    """
    if objective.sampler not in ("hp_loss", "hp_dist"):
        return 0.0
    head = objective.head
    width, embedding, vocabulary = head.width, model.embedding, model.vocab_size
    projects = width != embedding
    scalars = (objective.sampler == "hp_loss") + head.own_token
    dense = 2 * masked * width * model.generator.hidden
    keys = 2 * embedding * width if projects else 0
    draw = dense + 2 * masked * width * scalars + keys * vocabulary + 2 * masked * vocabulary * width
    # Dense layer and outputs again, with their gradients; the encoder's too if the loss reaches it.
    learn = dense * (3 if head.reaches_encoder else 2) + 3 * 2 * masked * width * scalars
    if objective.sampler == "hp_loss":
        # Keys of the drawn tokens and the gradient of their projection; the embeddings get none.
        return float(draw + learn + 2 * keys * masked)
    return float(draw + learn + 2 * keys * vocabulary + 2 * masked * vocabulary * (embedding + 3 * width))
