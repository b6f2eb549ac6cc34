"""A plan's figures are those of the real modules, measured here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.config import Recipe, parse_recipe, recipe_parser
from electra_scale.data.loader import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model import Electra
from electra_scale.plan import Cluster, head_parameters, memory_parts, plan
from electra_scale.replacement import build_sampler
from electra_scale.train.module import GlobalCounts, PretrainModule
from tests.runs import ROOT

V, ROWS = 8192, 4
FP32 = {"zero_optimization": {"stage": 2}}


def recipe_of(name: str) -> Recipe:
    return parse_recipe(recipe_parser("test"), ["--config", str(ROOT / "recipes" / name)])[0]


def module_of(recipe: Recipe) -> PretrainModule:
    model = recipe.model.resolve(V)
    special = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
    sampler = build_sampler(recipe.objective, model, seed=0)
    return PretrainModule(Electra(model), sampler, recipe.objective, special, "joint")


def batch_of(recipe: Recipe) -> Batch:
    """Full rows of one segment each, so that attention needs no mask."""
    positions = recipe.data.sequence_length
    ids = torch.randint(5, V, (ROWS, positions), generator=torch.Generator().manual_seed(0))
    masked = torch.arange(ROWS * positions)[:: round(1 / recipe.data.mask_share)]
    uniform = torch.linspace(0.01, 0.99, len(masked), dtype=torch.float64)
    return Batch(ids, torch.zeros_like(ids), masked, torch.ones(len(masked), dtype=torch.bool), uniform)


def loss_of(module: PretrainModule, batch: Batch) -> Tensor:
    counts = GlobalCounts(torch.tensor(float(len(batch.masked))), torch.tensor(float(batch.ids.numel())))
    loss: Tensor = module(batch, counts, 1.0, False)[0]
    return loss


@pytest.mark.parametrize("name", ["tiny.yaml", "small.yaml"])
def test_parameters_are_those_of_the_modules(name: str) -> None:
    recipe = recipe_of(name)
    module = module_of(recipe)
    found = plan(recipe, FP32, V, Cluster(1, 1, "h100"), 0.35)["parameters"]
    for part in ("embeddings", "generator", "generator_head", "discriminator", "discriminator_head"):
        assert found[part] == sum(p.numel() for p in getattr(module.electra, part).parameters()), part
    assert found["sampling_head"] == sum(p.numel() for p in module.sampler.parameters())
    assert found["total"] == sum(p.numel() for p in module.electra.parameters())


@pytest.mark.parametrize("name", ["tiny.yaml", "small.yaml"])
def test_flops_are_those_that_torch_counts(name: str) -> None:
    recipe = recipe_of(name)
    # The head's own products are the sampler's affair; MFU does not count them either.
    recipe.objective.sampler = "electra"
    module, batch = module_of(recipe), batch_of(recipe)
    recipe.data.mask_share = len(batch.masked) / batch.ids.numel()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss_of(module, batch).backward()
    planned = plan(recipe, FP32, V, Cluster(1, 1, "h100"), 0.35)["flops_per_token"]["total"] * batch.ids.numel()
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.03)


@pytest.mark.parametrize("name", ["tiny.yaml", "small.yaml"])
def test_activations_are_those_that_autograd_keeps(name: str) -> None:
    recipe = recipe_of(name)
    module, batch = module_of(recipe), batch_of(recipe)
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(module, batch)
    measured = sum(kept.values())
    # What the pass over the vocabulary keeps for backward: the gradient of the word embeddings and of the bias.
    vocabulary = 4 * V * (recipe.model.embedding + 1)
    loss.backward()
    planned = memory_parts(recipe, recipe.model.resolve(V), FP32, 1, ROWS)["activations"]
    assert measured - vocabulary == pytest.approx(planned, rel=0.15)


def test_weights_gradients_and_optimizer_are_measured_bytes() -> None:
    recipe = recipe_of("tiny.yaml")
    module = module_of(recipe)
    loss_of(module, batch_of(recipe)).backward()
    parts = memory_parts(recipe, recipe.model.resolve(V), FP32, 1, ROWS)
    parameters = list(module.electra.parameters())
    optimizer = torch.optim.AdamW(parameters)
    optimizer.step()
    moments = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim() > 0)
    head = head_parameters(recipe, recipe.model.resolve(V))
    weights = sum(parameter.nbytes for parameter in parameters)
    gradients = sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
    assert parts["weights"] == weights + 4 * head
    # ZeRO keeps a second float32 copy of its part of weights and gradients.
    assert parts["gradients"] == 2 * gradients + 4 * head
    assert parts["optimizer"] == weights + moments + 12 * head


def test_optimizer_is_divided_and_batch_split_by_the_ranks() -> None:
    recipe = recipe_of("small.yaml")
    one, many = (plan(recipe, FP32, V, Cluster(nodes, 8, "h100"), 0.35, 2.0) for nodes in (1, 4))
    head = 12 * one["parameters"]["sampling_head"]
    assert many["memory"]["optimizer"] - head == pytest.approx((one["memory"]["optimizer"] - head) / 4)
    assert many["batch"] == {"ranks": 32, "micro": 4, "accumulation": 1}
    assert many["seconds"] == pytest.approx(one["seconds"] / 4)
    assert many["cost"] == pytest.approx(one["cost"])
    assert one["warnings"] == []


def test_what_does_not_fit_is_said_with_what_to_change() -> None:
    recipe = recipe_of("large.yaml")
    recipe.batch.global_batch = recipe.batch.most_per_device = 4096
    (warning,) = plan(recipe, FP32, V, Cluster(1, 1, "l4"), 0.35)["warnings"]
    assert "memory" in warning
    assert "batch.most_per_device" in warning


def test_the_command_prints_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    command = ["plan", "--config", "recipes/small.yaml", "--batch.global_batch", "64", "--price", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "assumed: 35%" in printed
    assert "cost" in printed
    assert main([*command, "--json", str(tmp_path / "plan.json")]) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["batch"] == {"ranks": 8, "micro": 8, "accumulation": 1}
    assert main([*command, "--gpu", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err


def test_an_impossible_efficiency_is_refused() -> None:
    with pytest.raises(UserError, match="--efficiency"):
        plan(Recipe(), FP32, V, Cluster(1, 1, "h100"), 1.5)
