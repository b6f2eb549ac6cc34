"""What ranks must know of a model: which of its weights the loss does not depend on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import ModernBertForTokenClassification

from electra_scale.finetune.encoder import build_model
from electra_scale.finetune.tasks.known import TASKS
from electra_scale.finetune.training import without_gradient
from tests.support.fixtures.small_encoders import write_encoder

IDS = torch.tensor([[2, 5, 6, 3]])
LABELS = {
    "cola": {"labels": torch.tensor([1])},
    "stsb": {"labels": torch.tensor([1.0])},
    "conll2000": {"labels": torch.tensor([[-100, 1, 0, -100]])},
    "squad": {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([2])},
}


@pytest.mark.parametrize("kind", ["electra", "bert", "modernbert", "modern discriminator"])
def test_the_loss_of_every_kind_of_task_depends_on_all_weights(tmp_path: Path, kind: str) -> None:
    folder = write_encoder(tmp_path / kind, kind)
    for name, labels in LABELS.items():
        model = build_model(folder, kind, TASKS[name], None, 0)
        assert without_gradient(model, {"input_ids": IDS, **labels}) == [], name


def test_weights_that_the_loss_does_not_depend_on_are_named(tmp_path: Path) -> None:
    model = build_model(write_encoder(tmp_path / "e"), "e", TASKS["cola"], None, 0)
    model.electra.unneeded = nn.Linear(2, 2)
    batch = {"input_ids": IDS, **LABELS["cola"]}
    assert without_gradient(model, batch) == ["electra.unneeded.weight", "electra.unneeded.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_head_for_another_task_with_as_many_outputs_is_drawn_anew(tmp_path: Path) -> None:
    """Detection has one output, as a task of numbers has; the layer before it is kept."""
    folder = write_encoder(tmp_path / "d", "modern discriminator")
    detecting = ModernBertForTokenClassification.from_pretrained(folder)
    models = [build_model(folder, "d", TASKS["stsb"], None, seed) for seed in (1, 1, 2)]
    first, again, other = (model.classifier.weight for model in models)
    assert torch.equal(first, again)
    for weight in (other, detecting.classifier.weight):
        assert not torch.equal(first, weight)
    assert torch.equal(models[0].head.dense.weight, detecting.head.dense.weight)
