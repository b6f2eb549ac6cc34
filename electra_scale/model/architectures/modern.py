"""The architecture of ModernBERT: what its encoders cost, and how transformers has them."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from data_pipeline.errors import UserError
from electra_scale.model.architectures.architecture import Network
from electra_scale.model.architectures.folding import split, unfold
from electra_scale.model.architectures.modern_encoder import ModernEncoder, output_scale
from electra_scale.model.attention.windows import block_of, keys_of, pays
from electra_scale.model.embeddings import WordEmbeddings
from electra_scale.model.heads import ModernDiscriminatorHead, ModernGeneratorHead
from electra_scale.recipe.model import EncoderSize, ModelConfig

_SMALL_TENSORS = 32
"""Bytes per token and network of tensors with one number a token: ids, positions, segments, logits, labels."""

_TABLE, _DECODER = "embeddings.word.weight", "generator_head.decoder.weight"

_LAYER = {
    "attention_norm": "attn_norm",
    "qkv": "attn.Wqkv",
    "attention_output": "attn.Wo",
    "ffn_norm": "mlp_norm",
    "ffn_in": "mlp.Wi",
    "ffn_out": "mlp.Wo",
}


class ModernArchitecture:
    """Encoders of this kind, for a configuration of the networks."""

    model_type: ClassVar[str] = "modernbert"

    hugging_face: ClassVar[dict[Network, str]] = {
        "discriminator": "ModernBertForTokenClassification",
        "generator": "ModernBertForMaskedLM",
    }

    token_settings: ClassVar[dict[str, str]] = {
        "pad_token_id": "pad_token_id",
        "cls_token_id": "cls_token_id",
        "bos_token_id": "cls_token_id",
        "sep_token_id": "sep_token_id",
        "eos_token_id": "sep_token_id",
    }

    inputs: ClassVar[list[str] | None] = ["input_ids", "attention_mask"]

    for_tasks: ClassVar[tuple[str, str]] = (
        "ModernBertForSequenceClassification",
        ", num_labels=2, ignore_mismatched_sizes=True",
    )

    flops_formulas: ClassVar[tuple[str, ...]] = (
        "forward of an encoder: 2 E H [E != H] + layers (8 H^2 + 6 H F) + 4 H S in layers that attend to all,",
        "4 H min(S, window + 1) in the others, though a masked row costs 4 H S there too, as on CPUs",
        "(the last layer of the generator has all but 6 H^2 and attention at masked positions only)",
        "of the heads: generator (M/S) (2 H^2 + 2 H E [E != H] + 2 E V), discriminator 2 H^2 + 2 H",
    )

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @property
    def tied(self) -> dict[Network, dict[str, str]]:
        if self._projects("generator"):
            return {"discriminator": {}, "generator": {}}
        return {"discriminator": {}, "generator": {"decoder.weight": "model.embeddings.tok_embeddings.weight"}}

    def embeddings(self) -> WordEmbeddings:
        return WordEmbeddings(self.config)

    def encoder(self, size: EncoderSize) -> ModernEncoder:
        return ModernEncoder(size, self.config)

    def generator_head(self) -> ModernGeneratorHead:
        config, size = self.config, self.config.generator
        return ModernGeneratorHead(
            size.hidden, config.embedding, config.vocab_size, config.architecture.layer_norm_eps, output_scale(size)
        )

    def discriminator_head(self) -> ModernDiscriminatorHead:
        size = self.config.discriminator
        return ModernDiscriminatorHead(size.hidden, self.config.architecture.layer_norm_eps, output_scale(size))

    def embedding_parameters(self) -> int:
        return self.config.vocab_size * self.config.embedding

    def encoder_parameters(self, size: EncoderSize) -> int:
        hidden, embedding = size.hidden, self.config.embedding
        project = embedding * hidden if embedding != hidden else 0
        norms = (2 * size.layers - 1) + 2
        return project + size.layers * (4 * hidden * hidden + 3 * hidden * size.ffn) + norms * hidden

    def head_parameters(self, network: Network) -> int:
        hidden, embedding = self._size(network).hidden, self.config.embedding
        dense = hidden * hidden + hidden
        if network == "discriminator":
            return dense + hidden + 1
        return dense + (hidden * embedding if embedding != hidden else 0) + self.config.vocab_size

    def encoder_flops(self, size: EncoderSize, positions: float, wanted: float = 1.0) -> float:
        """``2 E H [E != H] + sum over layers of (6 H^2 + 4 A H) + (layers - 1 + wanted) * (2 H^2 + 6 H F)``.

        A is S in layers that attend to all, min(S, window + 1) in the others, as a kernel for windows computes it; in
        rows it costs S there too, or 3/2 of a window by blocks (:mod:`electra_scale.model.attention.windows`). The
        gated block has 3 products H x F. Element-wise work is not counted.
        """
        hidden, ffn, embedding = size.hidden, size.ffn, self.config.embedding
        project = 2 * embedding * hidden if embedding != hidden else 0
        by_row = size.layers * 6 * hidden * hidden + self.attention_flops(size, positions)
        by_position = (size.layers - 1 + wanted) * (2 * hidden * hidden + 6 * hidden * ffn)
        return float(project + by_row + by_position)

    def attention_flops(self, size: EncoderSize, positions: float) -> float:
        everywhere = self._global_layers(size)
        attended = everywhere * positions
        attended += (size.layers - everywhere) * min(positions, self.config.architecture.window + 1)
        return 4 * attended * size.hidden

    def input_flops(self, size: EncoderSize) -> float:
        """Of the projection; without one the encoder starts with a LayerNorm of its own, which wants its gradient."""
        hidden, embedding = size.hidden, self.config.embedding
        return float(2 * embedding * hidden if embedding != hidden else 0)

    def recomputed_flops(self, size: EncoderSize, positions: float, wanted: float = 1.0) -> float:
        """All but the input projection and the product that ends a layer, whose result no gradient needs."""
        hidden, embedding = size.hidden, self.config.embedding
        left_out: float = 2 * embedding * hidden if embedding != hidden else 0
        left_out += (size.layers - 1 + wanted) * 2 * hidden * size.ffn
        return self.encoder_flops(size, positions, wanted) - left_out

    def head_flops(self, network: Network) -> float:
        """``2 H^2 + 2 H E [E != H]`` for the generator's, ``2 H^2 + 2 H`` for the discriminator's."""
        hidden, embedding = self._size(network).hidden, self.config.embedding
        if network == "discriminator":
            return float(2 * hidden * hidden + 2 * hidden)
        return float(2 * hidden * hidden + (2 * hidden * embedding if embedding != hidden else 0))

    def encoder_bytes(
        self, size: EncoderSize, element: int, wanted: float = 1.0, learns: bool = True, below: bool = True
    ) -> float:
        """``b (layers (10 H + 4 F) + E + H [E != H])`` with b bytes a number, if all positions are ``wanted``.

        Per layer its input and that of the second block, both after their LayerNorm too, Q, K, V, Q and K turned, and
        the context, of H each; the gated block's two halves, GELU and product, of F each. The first layer has no
        LayerNorm of its own, the last one is followed by one. Besides ``4 (layers (heads + 4) + 2)``, softmax
        normalisers, means and deviations, and 4 D for the angles of each of the two kinds of layer. Attention is fused,
        and of what dropout drops a number has a byte. With activation checkpointing of a layer only its input is kept.

        What only a weight's gradient needs is not kept of an encoder that does not learn: what LayerNorms give, that
        product, the projection's and the first layer's input.
        """
        if not (learns or below):
            return 0.0
        hidden, embedding = size.hidden, self.config.embedding
        checkpointed = self.config.activation_checkpointing
        # The layers' inputs, and that of the last LayerNorm.
        kept = (size.layers + wanted - (not learns and not checkpointed)) * hidden
        kept += hidden + embedding * learns if embedding != hidden else hidden
        kinds = 1 if self._global_layers(size) == size.layers else 2
        exact = 4 * (2 + 2 * wanted) + 4 * kinds * (hidden // size.heads)
        dropped = hidden if self.config.dropout > 0 else 0
        found = float(kept * element + exact + dropped + _SMALL_TENSORS)
        if checkpointed:
            return found
        whole, last = (self.layer_bytes(size, element, share, learns) for share in (1.0, wanted))
        return found + (size.layers - 1) * whole + last - (hidden * element * learns + 4 * 2)

    def layer_bytes(self, size: EncoderSize, element: int, wanted: float = 1.0, learns: bool = True) -> float:
        hidden, left_out = size.hidden, 1 - wanted
        by_row, by_position = (6 + learns) * hidden, (1 + learns) * hidden + (3 + learns) * size.ffn
        # The context is there a second time where states are wanted.
        kept = by_row + wanted * by_position + (wanted * hidden if left_out and learns else 0)
        dropped = wanted * (hidden + size.ffn) if self.config.dropout > 0 else 0
        return kept * element + 4 * (size.heads + 4 - 2 * left_out) + dropped

    def largest_parameter(self, size: EncoderSize) -> int:
        return size.hidden * max(3 * size.hidden, 2 * size.ffn)

    def row_attention_bytes(self, positions: int, element: int) -> float:
        """A mask of S x S, and a second one for layers with a window where a document of a whole row would reach beyond
        it. By blocks that one has k columns, and each such layer has K and V k / b times, for k keys of b queries."""
        window, sizes = self.config.architecture.window, (self.config.generator, self.config.discriminator)
        local = [(size.layers - self._global_layers(size)) * size.hidden for size in sizes]
        if not any(local) or positions - 1 <= window // 2:
            return float(positions * element)
        if not pays(positions, window):
            return float(2 * positions * element)
        keys, copies = keys_of(window), keys_of(window) / block_of(window)
        shared = 0.0 if self.config.activation_checkpointing else sum(local) * (2 * copies - 1)
        return float((positions + keys + shared) * element)

    def head_bytes(self, network: Network, element: int, learns: bool = True) -> float:
        """Input, dense, GELU, the LayerNorm's output where a product follows, and two numbers of it; of a head that
        does not learn what GELU and LayerNorm are applied to."""
        hidden, embedding = self._size(network).hidden, self.config.embedding
        if not learns:
            return float(2 * hidden * element + 8)
        ends = network == "generator" and embedding == hidden
        return float((3 if ends else 4) * hidden * element + 8)

    def transformers_config(self, network: Network) -> Any:
        from transformers import ModernBertConfig

        config, size, settings = self.config, self._size(network), self.config.architecture
        # The tokenizer decides them; the defaults are of a larger vocabulary.
        undecided: dict[str, Any] = dict.fromkeys(self.token_settings)
        found: Any = ModernBertConfig(
            vocab_size=config.vocab_size,
            hidden_size=size.hidden,
            intermediate_size=size.ffn,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            max_position_embeddings=config.max_positions,
            initializer_range=config.init_std,
            norm_eps=settings.layer_norm_eps,
            layer_types=self._layer_types(size),
            local_attention=settings.window,
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": settings.global_theta},
                "sliding_attention": {"rope_type": "default", "rope_theta": settings.local_theta},
            },
            attention_dropout=config.exported_dropout,
            embedding_dropout=config.exported_dropout,
            mlp_dropout=config.exported_dropout,
            classifier_dropout=config.exported_dropout,
            tie_word_embeddings=network == "generator" and not self._projects(network),
            **undecided,
        )
        if network == "discriminator":
            found.id2label, found.label2id = {0: "replaced"}, {"replaced": 0}
        return found

    def transformers_names(self, network: Network) -> dict[str, tuple[str, ...]]:
        names = {_TABLE: "model.embeddings.tok_embeddings", f"{network}.norm.weight": "model.embeddings.norm"}
        for layer in range(self._size(network).layers):
            for ours, theirs in _LAYER.items():
                if layer or ours != "attention_norm":
                    names[f"{network}.layers.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}"
        names[f"{network}.final_norm.weight"] = "model.final_norm"
        for part in ("dense", "norm"):
            names[f"{network}_head.{part}.weight"] = f"head.{part}"
        found: dict[str, tuple[str, ...]] = {ours: (f"{theirs}.weight",) for ours, theirs in names.items()}
        if network == "discriminator":
            return found | {f"discriminator_head.output.{leaf}": (f"classifier.{leaf}",) for leaf in ("weight", "bias")}
        if self._projects(network):
            found[_DECODER] = ("decoder.weight",)
        return found | {"generator_head.bias": ("decoder.bias",)}

    def folded(self, network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the network's projection in its own table, and the generator's other one in its decoder."""
        if not self._projects(network):
            return weights
        table = weights[_TABLE].double()
        own = {_TABLE: (table @ weights[f"{network}.project.weight"].double().T).float()}
        if network == "generator":
            own[_DECODER] = (table @ weights["generator_head.project.weight"].double()).float()
        return weights | own

    def unfolded(
        self, network: Network, weights: dict[str, Tensor], table: Tensor | None
    ) -> tuple[dict[str, Tensor], float]:
        if not self._projects(network):
            return weights, 0.0
        found = dict(weights)
        folded, width = found.pop(_TABLE), self.config.embedding
        if table is not None:
            matrix, lost = unfold(table, folded)
        elif width > folded.shape[1]:
            raise UserError(
                f"model.embedding is {width}, and embeddings of width {folded.shape[1]} do not say what a wider table "
                f"would hold; set model.embedding to {folded.shape[1]}"
            )
        else:
            table, matrix, lost = split(folded, width)
        found |= {_TABLE: table, f"{network}.project.weight": matrix.T.contiguous()}
        if network == "generator":
            found["generator_head.project.weight"], more = unfold(table, found.pop(_DECODER))
            lost = max(lost, more)
        return found, lost

    def differences(self, network: Network, config: Any) -> list[str]:
        if config.model_type != self.model_type:
            return [f"model_type {config.model_type} there, {self.model_type} here"]
        ours, size = self.transformers_config(network), self._size(network)
        pairs: dict[str, tuple[object, object]] = {
            "vocab_size": (config.vocab_size, self.config.vocab_size),
            f"{network}.layers": (config.num_hidden_layers, size.layers),
            f"{network}.hidden": (config.hidden_size, size.hidden),
            f"{network}.ffn": (config.intermediate_size, size.ffn),
            f"{network}.heads": (config.num_attention_heads, size.heads),
            "layer_norm_eps": (config.norm_eps, ours.norm_eps),
            "window": (config.local_attention, ours.local_attention),
        }
        if config.num_hidden_layers == size.layers:
            pairs["layer_types"] = (list(config.layer_types), list(ours.layer_types))
        for name in ("global", "local"):
            kind = "full_attention" if name == "global" else "sliding_attention"
            pairs[f"{name}_theta"] = (_theta(config, kind), _theta(ours, kind))
        same = ["hidden_activation", "classifier_activation"]
        same += ["norm_bias", "attention_bias", "mlp_bias", "classifier_bias"]
        same += ["decoder_bias", "tie_word_embeddings"] if network == "generator" else []
        if network == "discriminator":
            pairs["num_labels"] = (config.num_labels, 1)
        pairs |= {name: (getattr(config, name, None), getattr(ours, name)) for name in same}
        return [f"{name} {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]

    def _size(self, network: Network) -> EncoderSize:
        size: EncoderSize = getattr(self.config, network)
        return size

    def _projects(self, network: Network) -> bool:
        return self._size(network).hidden != self.config.embedding

    def _global_layers(self, size: EncoderSize) -> int:
        return -(-size.layers // int(self.config.architecture.global_every))

    def _layer_types(self, size: EncoderSize) -> list[str]:
        every = self.config.architecture.global_every
        return ["sliding_attention" if index % every else "full_attention" for index in range(size.layers)]


def _theta(config: Any, kind: str) -> object:
    """The base of the wavelengths in layers of a kind, or how they are made if not in the usual way."""
    parameters = (config.rope_parameters or {}).get(kind) or {}
    plain = parameters.get("rope_type", "default") == "default"
    return parameters.get("rope_theta") if plain else dict(parameters)
