"""The figures of a plan are those of real modules; this file has the figures that need no training step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.corruption.corruption import cost_of
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.cost import sampler_flops, sampler_parameters
from electra_scale.model.cost import recomputed_flops, training_flops
from electra_scale.plan.plan import Cluster, Tokens, plan
from electra_scale.plan.text import plan_text
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.phases import Phase, trained_parts
from electra_scale.recipe.recipe import Recipe
from tests.support.fixtures.runs import ROOT
from tests.unit.plan.conftest import FROZEN, VOCABULARY, batch_of, frozen_recipe_of, loss_of, module_of, recipe_of

FP32 = {"zero_optimization": {"stage": 2}}
BF16 = FP32 | {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
TOKENS = Tokens(VOCABULARY, 2.0)


@pytest.mark.parametrize("name", ["tiny.yaml", "small.yaml", "modern-tiny.yaml", "modern-small.yaml"])
def test_parameters_are_those_of_the_modules(name: str) -> None:
    module = module_of(recipe_of(name))
    found = plan(recipe_of(name), FP32, TOKENS, Cluster(1, 1, "h100"))["parameters"]
    for part in ("embeddings", "generator", "generator_head", "discriminator", "discriminator_head"):
        assert found[part] == sum(p.numel() for p in getattr(module.electra, part).parameters()), part
    assert found["sampling_head"] == sum(p.numel() for p in module.sampler.parameters())
    assert found["total"] == sum(p.numel() for p in module.electra.parameters())


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("sampler", ["electra", "hp_loss", "hp_dist", "two_scalars"])
def test_parameters_of_every_sampler_are_those_of_the_module(sampler: Any, width: int) -> None:
    recipe = recipe_of("small.yaml")
    recipe.corruption.sampler, recipe.corruption.head.width = sampler, width
    model = recipe.networks(VOCABULARY)
    expected = sum(parameter.numel() for parameter in build_sampler(recipe.corruption, model, seed=0).parameters())
    assert sampler_parameters(recipe.corruption, model) == expected


@pytest.mark.parametrize(
    ("name", "phase", "sampler", "width"),
    [
        ("tiny.yaml", "generator_warmup", "hp_loss", 64),
        ("tiny.yaml", "joint", "hp_loss", 64),
        ("tiny.yaml", "joint", "hp_loss", 128),
        ("tiny.yaml", "joint", "hp_dist", 64),
        ("small.yaml", "generator_warmup", "hp_loss", 64),
        ("small.yaml", "joint", "hp_loss", 64),
        ("modern-tiny.yaml", "joint", "hp_loss", 64),
        ("modern-small.yaml", "joint", "electra", 64),
    ],
)
def test_flops_of_a_step_are_those_that_torch_counts(name: str, phase: Phase, sampler: Any, width: int) -> None:
    recipe = recipe_of(name)
    recipe.optimizer.generator_rate = 1.0
    recipe.corruption.sampler, recipe.corruption.head.width = sampler, width
    # A row under a mask costs more in layers with a window than is counted, unless it is no longer than the window.
    recipe.data.sequence_length = min(recipe.data.sequence_length, 128)
    module, batch = module_of(recipe, phase), batch_of(recipe)
    aten = torch.ops.aten
    # torch counts neither products that are added in place nor those with a vector.
    more = {aten.addmm_: _addmm_flops, aten.mv: _mv_flops}
    # The fused attention of a CPU is not counted either, and others count what they compute twice.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=more) as counter:
        loss_of(module, batch).backward()
    model, tokens = recipe.networks(VOCABULARY), batch.ids.numel()
    joint, masked = phase == "joint", len(batch.masked)
    planned = training_flops(model, batch.ids.shape[1], masked / tokens, joint) * tokens
    planned += sampler_flops(recipe.corruption, model, masked) if joint else 0
    # The difference is the gradient of the vocabulary's bias.
    assert planned <= counter.get_total_flops() <= 1.003 * planned


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("name", ["tiny.yaml", "modern-tiny.yaml"])
def test_flops_of_a_step_are_those_of_what_trains(name: str, frozen: str) -> None:
    recipe = frozen_recipe_of(name, frozen)
    recipe.data.sequence_length = 32
    module, batch = module_of(recipe), batch_of(recipe)
    more = {torch.ops.aten.addmm_: _addmm_flops, torch.ops.aten.mv: _mv_flops}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=more) as counter:
        loss_of(module, batch).backward()
    model, tokens, masked = recipe.networks(VOCABULARY), batch.ids.numel(), len(batch.masked)
    trained = trained_parts(recipe, "joint")
    planned = training_flops(model, 32, masked / tokens, True, trained=trained) * tokens
    planned += cost_of(recipe.corruption, model, trained).flops(masked)
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.003)


@pytest.mark.parametrize("phase", ["generator_warmup", "joint"])
@pytest.mark.parametrize("name", ["tiny.yaml", "modern-tiny.yaml"])
def test_flops_that_checkpointing_repeats_are_those_that_torch_counts(name: str, phase: Phase) -> None:
    counted = []
    for switch in (False, True):
        recipe = recipe_of(name)
        recipe.optimizer.generator_rate = 1.0
        recipe.data.sequence_length, recipe.model.activation_checkpointing = 32, switch
        module, batch = module_of(recipe, phase), batch_of(recipe)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss_of(module, batch).backward()
        counted.append(counter.get_total_flops())
    tokens, masked = batch.ids.numel(), len(batch.masked)
    model = recipe.networks(VOCABULARY)
    assert recomputed_flops(model, 32, masked / tokens, phase == "joint") * tokens == counted[1] - counted[0]


def test_a_plan_has_the_time_of_checkpointing_and_no_mfu_for_it() -> None:
    recipe = recipe_of("small.yaml")
    plain = plan(recipe, BF16, TOKENS, Cluster(1, 1, "h100"))
    recipe.model.activation_checkpointing = True
    found = plan(recipe, BF16, TOKENS, Cluster(1, 1, "h100"))
    assert plain["recomputed_flops_per_token"] == {"joint": 0, "generator_warmup": 0}
    total, again = found["flops_per_token"]["total"], found["recomputed_flops_per_token"]["joint"]
    assert total == plain["flops_per_token"]["total"]
    assert found["step_seconds"] / plain["step_seconds"] == pytest.approx(1 + again / total)
    assert found["mfu"] / plain["mfu"] == pytest.approx(total / (total + again))
    assert "computed again" in plan_text(found)
    assert "computed again" not in plan_text(plain)
    assert found["memory"]["largest_micro_batch"] >= plain["memory"]["largest_micro_batch"]
    assert found["memory"]["activations"] < plain["memory"]["activations"] / 4


def test_masks_are_planned_where_a_device_needs_them() -> None:
    recipe = recipe_of("small.yaml")
    free = plan(recipe, BF16, TOKENS, Cluster(1, 1, "h100"))
    recipe.model.attention_dropout = 0.1
    masked = plan(recipe, BF16, TOKENS, Cluster(1, 1, "h100"))
    positions = recipe.data.sequence_length
    found = masked["memory"]["activations"] - free["memory"]["activations"]
    assert found == pytest.approx(masked["batch"]["micro"] * positions * positions * 2)


def _addmm_flops(_: Any, left: Any, right: Any, *__: Any, **___: Any) -> int:
    return int(2 * left[0] * left[1] * right[1])


def _mv_flops(matrix: Any, *_: Any, **__: Any) -> int:
    return int(2 * matrix[0] * matrix[1])


def test_time_is_computing_at_the_assumed_efficiency_and_communication() -> None:
    recipe = recipe_of("tiny.yaml")
    found = plan(recipe, BF16, TOKENS, Cluster(2, 2, "h100", link_gbs=10.0), efficiency=0.25, price=3.0)
    flops, tokens = found["flops_per_token"], recipe.batch.global_batch * recipe.data.sequence_length
    parts = found["parameters"]
    # A rank's share of the samples fits into one micro-batch, so nothing is accumulated; the generator stays as it is.
    trained = parts["discriminator"] + parts["discriminator_head"]
    sent = (3 * 2 * trained + 2 * 4 * parts["sampling_head"]) * 3 / 4
    step = tokens * flops["total"] / (4 * 0.25 * 989e12) + sent / 10e9
    assert found["step_seconds"] == pytest.approx(step)
    assert found["mfu"] == pytest.approx(tokens * flops["total"] / step / (4 * 989e12))
    trained = sum(parts[part] for part in ("embeddings", "generator", "generator_head"))
    warmup = tokens * flops["generator_warmup"] / (4 * 0.25 * 989e12) + 3 * 2 * trained * 3 / 4 / 10e9
    assert found["seconds"] == pytest.approx(recipe.schedule.steps * step + recipe.generator_warmup.steps * warmup)
    assert found["cost"] == pytest.approx(found["seconds"] / 3600 * 4 * 3)
    assert found["tokens"]["run"] == tokens * recipe.total_steps
    assert found["streamed_per_node"]["run"] == tokens * recipe.total_steps * 2 / 2


def test_ranks_divide_the_optimizer_and_the_batch() -> None:
    recipe = recipe_of("small.yaml")
    one, many = (plan(recipe, BF16, TOKENS, Cluster(nodes, 8, "h100")) for nodes in (1, 4))
    head = 16 * one["parameters"]["sampling_head"]
    assert many["memory"]["optimizer"] - head == pytest.approx((one["memory"]["optimizer"] - head) / 4)
    assert many["batch"] == {"ranks": 32, "micro": 4, "accumulation": 1}


def test_a_micro_batch_that_would_fit_is_named() -> None:
    recipe = recipe_of("large.yaml")
    recipe.batch.most_per_device = 2048
    memory = plan(recipe, BF16, TOKENS, Cluster(1, 1, "l4"))["memory"]
    assert not memory["fits"]
    largest = memory["largest_micro_batch"]
    recipe.batch.most_per_device = largest
    assert plan(recipe, BF16, TOKENS, Cluster(1, 1, "l4"))["memory"]["fits"]
    recipe.batch.most_per_device = 2 * largest
    assert not plan(recipe, BF16, TOKENS, Cluster(1, 1, "l4"))["memory"]["fits"]


COMMAND = ["plan", "--config", "recipes/small.yaml"]


def test_the_command_prints_every_figure_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    command = [*COMMAND, "--config", "recipes/faithful.yaml", "--batch.global_batch", "64"]
    assert main([*command, "--price", "2"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "8 H^2 + 4 H F + 4 S H",
        "20% of 989 TFLOP/s",
        "assumption",
        "23%",
        "18%",
        "at 2 a device hour",
        "fits",
    ):
        assert part in printed
    assert main([*command, "--json", str(tmp_path / "plan.json")]) == 0
    assert capsys.readouterr().out == ""
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["batch"] == {"ranks": 8, "micro": 8, "accumulation": 1}
    assert found["cost"] is None
    assert main(command) == 0
    assert "cost: give --price" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--gpu", "abacus"], "--gpu abacus is not known; known: a100-40, a100-80, h100, h200, l4"),
        (["--nodes", "0"], "--nodes is 0"),
        (["--gpus-per-node", "-1"], "--gpus-per-node -1"),
        (["--efficiency", "1.5"], "--efficiency is 1.5"),
        (["--efficiency", "nan"], "--efficiency is nan"),
        (["--price", "-1"], "--price is -1.0"),
        (["--link", "0"], "--link is 0.0"),
        (["--vocabulary", "0"], "--vocabulary is 0"),
        (["--store", "nowhere"], "give --vocabulary instead of --store"),
        (["--store", "file:///nowhere/at/all"], "give --vocabulary instead of --store"),
        (["--batch.global_bach", "1"], "global_bach"),
    ],
)
def test_impossible_options_are_refused_in_one_line(
    options: list[str], part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*COMMAND, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line


def test_ranks_that_cannot_share_the_batch_get_the_error_of_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as refusal:
        batch_split(128, 7, 128)
    assert main([*COMMAND, "--gpus-per-node", "7"]) == 2
    assert str(refusal.value) in capsys.readouterr().err


def test_vocabulary_and_bytes_come_from_the_store(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*COMMAND, "--store", str(store), "--nodes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    manifest = json.loads((store / "manifest.json").read_text())
    train = [shard for shard in manifest["shards"] if shard["split"] == "train"]
    assert found["assumed"]["vocabulary"] == manifest["tokenizer"]["vocab_size"]
    # Each node streams its half of all the bytes in an epoch.
    assert found["streamed_per_node"]["epoch"] == pytest.approx(sum(shard["bytes"] for shard in train) / 2)


def test_a_plan_needs_no_deepspeed() -> None:
    program = (
        "import sys; from electra_scale.cli import main; "
        "assert main(sys.argv[1:]) == 0; assert 'deepspeed' not in sys.modules; assert 'pyarrow' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program, *COMMAND],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )


def test_a_recipe_without_a_warm_up_has_one_phase() -> None:
    recipe = Recipe()
    found = plan(recipe, BF16, TOKENS, Cluster(1, 8, "a100-80"))
    assert found["seconds"] == pytest.approx(found["step_seconds"] * recipe.schedule.steps)
