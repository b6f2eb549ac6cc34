"""What an encoder architecture is to the rest of the program: the network, its costs, and its Hugging Face form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from electra_scale.model.attention.layout import Layout
from electra_scale.model.heads import GeneratorHead
from electra_scale.recipe.kinds import SEAMS, method_of
from electra_scale.recipe.model import EncoderSize, ModelConfig

Network = Literal["discriminator", "generator"]


@dataclass
class Hidden:
    """Hidden states of an encoder: ``last`` (B,S,H), or (M,H) where only M positions were asked for, and ``at`` (B,S,H)
    by the depth asked for, 0 the input."""

    last: Tensor
    at: dict[int, Tensor] = field(default_factory=dict)


class Encoder(Protocol):
    """A stack of layers; an ``nn.Module`` whose ``layers`` are in their order."""

    layers: nn.ModuleList

    def __call__(
        self, embedded: Tensor, layout: Layout, depths: Sequence[int] = (), only: Tensor | None = None
    ) -> Hidden:
        """Encode embedded tokens (B,S,E); ``depths`` are the layers after which states are wanted besides the last.

        ``only`` (M,): where among the B x S positions the last states are wanted, so that the last layer need not
        compute the others; unset, everywhere.
        """
        ...

    def attend_to_neighbours(self) -> None:
        """Set weights such that the first layer's heads attend to neighbouring positions; E = H, and E's last columns
        hold the sines and cosines of :func:`initialisation.sinusoids`, reversed, or with rotary positions a constant.
        """
        ...


class Architecture(Protocol):
    """One kind of encoder, for a configuration of the networks."""

    model_type: ClassVar[str]
    """What transformers calls its configurations."""

    hugging_face: ClassVar[dict[Network, str]]
    """Classes of transformers that open an export."""

    token_settings: ClassVar[dict[str, str]]
    """Settings of a configuration of transformers that the tokenizer decides, by the tokenizer's attribute."""

    inputs: ClassVar[list[str] | None]
    """What a tokenizer gives to the model, where that is not what tokenizers usually give."""

    for_tasks: ClassVar[tuple[str, str]]
    """The class of transformers that a classifier of texts is fine-tuned with, and what it is to be told."""

    flops_formulas: ClassVar[tuple[str, ...]]
    """Of :meth:`encoder_flops` and :meth:`head_flops`, in words and letters, a line each."""

    @property
    def tied(self) -> dict[Network, dict[str, str]]:
        """Weights of transformers that are another one, by the other one's name."""
        ...

    def __init__(self, config: ModelConfig) -> None: ...

    def embeddings(self) -> nn.Module:
        """The embedding layer: called with ids and position ids (B,S), gives (B,S,E); ``word`` is its table."""
        ...

    def encoder(self, size: EncoderSize) -> nn.Module:
        """An :class:`Encoder` of a size."""
        ...

    def generator_head(self) -> GeneratorHead:
        """From hidden states (M,H) of the generator to features (M,E), and a bias per token."""
        ...

    def discriminator_head(self) -> nn.Module:
        """From hidden states (...,H) of the discriminator to logits (...), positive for replaced."""
        ...

    def embedding_parameters(self) -> int:
        """Parameters of the embedding layer."""
        ...

    def encoder_parameters(self, size: EncoderSize) -> int:
        """Parameters of an encoder."""
        ...

    def head_parameters(self, network: Network) -> int:
        """Parameters of a network's head."""
        ...

    def encoder_flops(self, size: EncoderSize, positions: float, wanted: float = 1.0) -> float:
        """Forward operations of an encoder per token, a multiply-add counted as 2.

        ``positions``: how many positions a token attends to; for packed rows under a mask the row, as it is computed.
        ``wanted``: share of the positions whose last states are asked for.
        """
        ...

    def attention_flops(self, size: EncoderSize, positions: float) -> float:
        """Of :meth:`encoder_flops`, those of scores and values, products whose factors are both hidden states."""
        ...

    def input_flops(self, size: EncoderSize) -> float:
        """Of the backward pass, operations per token that only the gradient of the embeddings needs."""
        ...

    def recomputed_flops(self, size: EncoderSize, positions: float, wanted: float = 1.0) -> float:
        """Of :meth:`encoder_flops`, those that activation checkpointing has computed again in the backward pass."""
        ...

    def head_flops(self, network: Network) -> float:
        """Forward operations of a head per position that it is applied at, without the scores of the vocabulary."""
        ...

    def encoder_bytes(
        self, size: EncoderSize, element: int, wanted: float = 1.0, learns: bool = True, below: bool = True
    ) -> float:
        """Bytes per token that autograd keeps of the embeddings and one encoder, ``element`` bytes a number, without
        masks of attention; ``wanted`` as in :meth:`encoder_flops`. The encoder ``learns``, the embeddings ``below`` it
        do; if neither does, nothing is kept."""
        ...

    def layer_bytes(self, size: EncoderSize, element: int, wanted: float = 1.0, learns: bool = True) -> float:
        """What one layer keeps besides its input, bytes per token: with activation checkpointing autograd keeps it of
        one layer at a time, while that layer's gradient is formed. A layer that does not learn keeps no factors of
        products with its weights."""
        ...

    def largest_parameter(self, size: EncoderSize) -> int:
        """Numbers of an encoder's largest parameter."""
        ...

    def row_attention_bytes(self, positions: int, element: int) -> float:
        """Bytes per token that attention in rows of S = ``positions`` keeps besides, of both networks together: masks,
        and copies of what blocks of a window share."""
        ...

    def head_bytes(self, network: Network, element: int, learns: bool = True) -> float:
        """Bytes that autograd keeps of a head per position that it is applied at, its input included, its output not;
        less of one that only lets gradients through."""
        ...

    def transformers_config(self, network: Network) -> Any:
        """Configuration of the network as transformers has it."""
        ...

    def transformers_names(self, network: Network) -> dict[str, tuple[str, ...]]:
        """Names of ours in :meth:`folded` to transformers'; several are parts of ours, stacked along the first axis."""
        ...

    def folded(self, network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's weights, fp32 under our names, as an export of a network holds them."""
        ...

    def unfolded(
        self, network: Network, weights: dict[str, Tensor], table: Tensor | None
    ) -> tuple[dict[str, Tensor], float]:
        """What :meth:`folded` gave, as weights of the model, and which share of a matrix is lost by it, 0 for none.

        ``table`` (V,E): word embeddings that are to be shared, from the other network; unset, this one's are.
        """
        ...

    def differences(self, network: Network, config: Any) -> list[str]:
        """What differs between a configuration of transformers and ours: ``NAME THERE there, HERE here``, each."""
        ...


def architecture_of_type(model_type: str) -> type[Architecture] | None:
    """The architecture whose exports have this type of configuration, None if there is none."""
    found: list[type[Architecture]] = [method_of("architecture", kind) for kind in SEAMS["architecture"]]
    return next((one for one in found if one.model_type == model_type), None)


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that the configuration chooses."""
    found: Architecture = method_of("architecture", config.architecture.kind)(config)
    return found
