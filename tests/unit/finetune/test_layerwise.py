"""Each parameter learns at the rate of its depth: against a table made by hand, and for encoders of other names."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    XLMConfig,
    XLMForSequenceClassification,
)

from data_pipeline.errors import UserError
from electra_scale.finetune.layerwise import distances, optimizer, rates

SIZES: dict[str, Any] = {"vocab_size": 8, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}

# Rate 1e-3, decay 0.8, three layers, worked out by hand: head 1e-3, layers 8e-4, 6.4e-4 and 5.12e-4 from the top,
# embeddings 4.096e-4.
HEAD, TOP, MIDDLE, BOTTOM, EMBEDDINGS = 1e-3, 8e-4, 6.4e-4, 5.12e-4, 4.096e-4


def by_prefix(model: Any) -> dict[str, float]:
    return {entry.name: entry.rate for entry in rates(model, 1e-3, 0.8, 0.01)}


def expect(found: dict[str, float], table: dict[str, float]) -> None:
    """Every parameter is under one prefix of the table, each prefix has a parameter, and the rates are those."""
    for name, rate in found.items():
        prefixes = [prefix for prefix in table if name.startswith(prefix)]
        assert len(prefixes) == 1, (name, prefixes)
        assert rate == pytest.approx(table[prefixes[0]], rel=1e-12), name
    assert [prefix for prefix in table if not any(name.startswith(prefix) for name in found)] == []


def test_the_rates_of_electra_are_those_of_the_table() -> None:
    model = ElectraForSequenceClassification(ElectraConfig(embedding_size=4, num_hidden_layers=3, **SIZES))
    expect(
        by_prefix(model),
        {
            "classifier.": HEAD,
            "electra.encoder.layer.2.": TOP,
            "electra.encoder.layer.1.": MIDDLE,
            "electra.encoder.layer.0.": BOTTOM,
            "electra.embeddings_project.": EMBEDDINGS,
            "electra.embeddings.": EMBEDDINGS,
        },
    )


def test_what_berts_encoder_has_after_its_layers_learns_as_the_head_does() -> None:
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=3, **SIZES))
    expect(
        by_prefix(model),
        {
            "classifier.": HEAD,
            "bert.pooler.": HEAD,
            "bert.encoder.layer.2.": TOP,
            "bert.encoder.layer.1.": MIDDLE,
            "bert.encoder.layer.0.": BOTTOM,
            "bert.embeddings.": EMBEDDINGS,
        },
    )


def test_layers_are_found_in_encoders_that_name_them_otherwise() -> None:
    tokens = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    modern = ModernBertForSequenceClassification(ModernBertConfig(num_hidden_layers=3, **SIZES, **tokens))
    expect(
        by_prefix(modern),
        {
            "classifier.": HEAD,
            "head.": HEAD,
            "model.final_norm.": HEAD,
            "model.layers.2.": TOP,
            "model.layers.1.": MIDDLE,
            "model.layers.0.": BOTTOM,
            "model.embeddings.": EMBEDDINGS,
        },
    )
    distilled = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=8, dim=8, n_heads=2, hidden_dim=8, n_layers=3)
    )
    expect(
        by_prefix(distilled),
        {
            "pre_classifier.": HEAD,
            "classifier.": HEAD,
            "distilbert.transformer.layer.2.": TOP,
            "distilbert.transformer.layer.1.": MIDDLE,
            "distilbert.transformer.layer.0.": BOTTOM,
            "distilbert.embeddings.": EMBEDDINGS,
        },
    )


def test_lists_side_by_side_belong_to_the_same_layers() -> None:
    model = XLMForSequenceClassification(XLMConfig(vocab_size=8, emb_dim=8, n_layers=3, n_heads=2, n_langs=1))
    found = by_prefix(model)
    for part in ("attentions", "layer_norm1", "ffns", "layer_norm2"):
        rated = {name.split(".")[2]: rate for name, rate in found.items() if name.startswith(f"transformer.{part}.")}
        assert rated == pytest.approx({"0": BOTTOM, "1": MIDDLE, "2": TOP}), part
    assert found["transformer.embeddings.weight"] == pytest.approx(EMBEDDINGS)
    assert found["transformer.position_embeddings.weight"] == pytest.approx(EMBEDDINGS)


def test_norms_and_biases_have_no_weight_decay() -> None:
    model = ElectraForSequenceClassification(ElectraConfig(embedding_size=4, num_hidden_layers=2, **SIZES))
    decayed = {entry.name: entry.weight_decay for entry in rates(model, 1e-3, 0.8, 0.01)}
    for name, weight_decay in decayed.items():
        assert weight_decay == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.01), name


def test_the_optimizer_has_every_parameter_once_at_its_rate() -> None:
    model = ElectraForSequenceClassification(ElectraConfig(embedding_size=4, num_hidden_layers=2, **SIZES))
    table = rates(model, 1e-3, 0.5, 0.01)
    made = optimizer(model, table, (0.9, 0.999), 1e-6)
    found = {
        id(member): (group["lr"], group["weight_decay"]) for group in made.param_groups for member in group["params"]
    }
    assert found == {
        id(dict(model.named_parameters())[entry.name]): (entry.rate, entry.weight_decay) for entry in table
    }
    assert sum(len(group["params"]) for group in made.param_groups) == len(list(model.parameters()))


def test_a_model_without_layers_is_refused() -> None:
    import torch

    with pytest.raises(UserError, match="has no encoder of its own name"):
        distances(torch.nn.Linear(2, 2))
