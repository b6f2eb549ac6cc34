"""What a sampler adds to a step: parameters and floating-point operations, from the settings alone."""

from __future__ import annotations

from collections.abc import Collection

from electra_scale.corruption.corruption import CorruptionCost
from electra_scale.corruption.vocabulary.tiles import tiling_of
from electra_scale.corruption.vocabulary.vocabulary_pass import STRIP, block_shape
from electra_scale.model.architectures.architecture import architecture_of
from electra_scale.model.cost import reaches
from electra_scale.recipe.corruption import GeneratorSettings
from electra_scale.recipe.model import ModelConfig


def sampler_parameters(settings: GeneratorSettings, model: ModelConfig) -> int:
    """Parameters of the sampler that :func:`electra_scale.corruption.samplers.build.build_sampler` makes."""
    if settings.sampler == "two_scalars":
        return 2
    if settings.sampler not in ("hp_loss", "hp_dist"):
        return 0
    width = settings.head.width
    keys = model.embedding * width if width != model.embedding else width
    scalars = (settings.sampler == "hp_loss") + settings.head.own_token
    return model.generator.hidden * width + width + 2 * width + keys + scalars * (width + 1)


def sampler_flops(
    settings: GeneratorSettings, model: ModelConfig, masked: int, learns: bool = True, reached: bool = True
) -> float:
    """Operations of the sampling head for a micro-batch with M = ``masked`` positions; forward, backward and the draw.

    With width K: the draw costs ``2 V E K [K != E]`` for keys and ``2 M V K`` for scores, which have no backward pass
    with hp_loss. That of hp_dist goes over the vocabulary again, ``2 M V (E + 3 K)``, and through the keys. What is
    left is ``O(M K (H + E))``. ``learns``: the head does; ``reached``: a gradient goes through the generator's encoder.
    """
    if settings.sampler not in ("hp_loss", "hp_dist"):
        return 0.0
    head = settings.head
    width, embedding, vocabulary = head.width, model.embedding, model.vocab_size
    projects = width != embedding
    scalars = (settings.sampler == "hp_loss") + head.own_token
    dense = 2 * masked * width * model.generator.hidden
    keys = 2 * embedding * width if projects else 0
    draw = dense + 2 * masked * width * scalars + keys * vocabulary + 2 * masked * vocabulary * width
    # The encoder's gradient too if the loss reaches it.
    through = reached and head.reaches_encoder
    # Dense layer and outputs again, with their gradients.
    learn = dense * (1 + learns + through) + 2 * masked * width * scalars * (1 + learns + (learns or through))
    if settings.sampler == "hp_loss":
        # Keys of the drawn tokens and the gradient of their projection; the embeddings get none.
        return float(draw + learn + (1 + learns) * keys * masked)
    backward = learns or through
    return float(draw + learn + backward * (2 * keys * vocabulary + 2 * masked * vocabulary * (embedding + 3 * width)))


class GeneratorCost(CorruptionCost):
    """What the pass over the vocabulary and the sampler add to a step; formulas in docs/plan.md."""

    def __init__(self, settings: GeneratorSettings, model: ModelConfig, trained: Collection[str]) -> None:
        self.settings = settings
        self.model = model
        self.trained = trained
        self.reached = reaches("generator", trained)
        self.parameters = sampler_parameters(settings, model)

    def flops(self, masked: int) -> float:
        return sampler_flops(self.settings, self.model, masked, "sampler" in self.trained, self.reached)

    @property
    def forms_gradients(self) -> bool:
        """Whether the pass over the vocabulary does: all of its own, or none."""
        return self.reached or "generator_head" in self.trained

    @property
    def fits(self) -> bool:
        """Whether a gradient goes through the sampling head."""
        head = self.settings.head
        return "sampler" in self.trained or (self.reached and head.reaches_encoder)

    def masked_bytes(self, masked: int, element: int) -> float:
        """Of the generator's head, of the loss of the sampling head and of what they read."""
        settings, model = self.settings, self.model
        kept = 0.0
        if settings.sampler == "hp_dist" and self.fits:
            kept += model.embedding * element
        if self.forms_gradients:
            kept += architecture_of(model).head_bytes("generator", element, "generator_head" in self.trained)
        if settings.sampler in ("hp_loss", "hp_dist") and self.fits:
            kept += 3 * settings.head.width * 4
        if settings.sampler in ("hp_loss", "hp_dist") and "sampler" in self.trained:
            # In float32, which is a copy where the networks are of 16 bits.
            if element == 2 or "generator_head" not in self.trained:
                kept += model.generator.hidden * 4
            if settings.sampler == "hp_loss":
                kept += (model.embedding + settings.head.width) * 4
        return float(masked * kept)

    def kept_bytes(self, masked: int, element: int) -> float:
        """Gradients of word embeddings, bias and features in float32, ``4 (V (E + 1) + M E)``."""
        if not self.forms_gradients:
            return 0.0
        vocabulary, embedding = self.model.vocab_size, self.model.embedding
        return 4.0 * (vocabulary * (embedding + 1) + masked * embedding)

    def running_bytes(self, masked: int, element: int, device_type: str) -> float:
        """Tiles of a block, a tile of scores for tilts that read them, and the sampling head's keys in float32.

        Where a device has no kernels of its own, all have a tile of scores in logged steps.
        """
        settings, vocabulary = self.settings, self.model.vocab_size
        kinds = 1 if settings.sampler == "electra" else 2
        tiling = tiling_of(device_type)
        tiles = -(-vocabulary // tiling.columns)
        rows, width = block_shape(masked, vocabulary, tiles * kinds * 4, tiling)
        running = 4.0 * rows * width * (tiles * kinds + (settings.sampler in ("temperature", "hp_dist")))
        # Of a draw, sums of strips: in tiles and stacked, and as parts of q in float64, twice as well.
        draw = 24.0 * kinds * rows * tiles * width / STRIP
        if element == 2:
            # A tile's embeddings in float32, and its probabilities in 16 bits for the gradients' products.
            products = 4.0 * width * self.model.embedding + 2.0 * rows * width * self.forms_gradients
            running += max(draw, products)
        else:
            running += draw
        if settings.sampler in ("hp_loss", "hp_dist"):
            # The keys are made before the tiles, of all embeddings in float32.
            copied = 4.0 * vocabulary * self.model.embedding if element == 2 else 0.0
            running = max(running, copied) + 4.0 * (vocabulary + masked) * settings.head.width
        # Besides, the features that are scored.
        return running + masked * self.model.embedding * element

    def backward_bytes(self, masked: int, element: int, device_type: str) -> float:
        """The backward pass of hp_dist goes over the vocabulary again."""
        if self.settings.sampler != "hp_dist" or not self.fits:
            return 0.0
        vocabulary = self.model.vocab_size
        keys = vocabulary * self.settings.head.width
        copied = 4 * vocabulary * self.model.embedding if element == 2 else 0
        tiling = tiling_of(device_type)
        columns = min(vocabulary, tiling.columns)
        rows = min(masked, tiling.rows, max(1, tiling.memory // (4 * columns)))
        return float(copied + 12 * keys + 4 * rows * columns)
