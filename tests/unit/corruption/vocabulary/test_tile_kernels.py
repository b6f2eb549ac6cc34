"""The pass by a device's kernels against torch's operations and an enumeration.

Here the kernels are those of the processor; test_device_kernels.py runs this file once more with Triton's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from electra_scale.corruption.sampler import Masked, Sampler
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.samplers.given import GivenHardnessSampler
from electra_scale.corruption.tile_kernels import ScoreParts, TileKernels
from electra_scale.corruption.vocabulary import vocabulary_pass
from electra_scale.corruption.vocabulary.device_kernels import check
from electra_scale.corruption.vocabulary.sweeps import FusedSweeps, TorchSweeps
from electra_scale.corruption.vocabulary.tiles import ON_CPU, ON_DEVICE, Tiling
from tests.unit.corruption.conftest import MODEL, V, objective, random, roughened
from tests.unit.corruption.vocabulary.test_vocabulary_pass import direct, gradients, positions

SAMPLERS = {
    "electra": objective("electra"),
    "temperature": replace(objective("temperature"), temperature=1.7),
    "hp_loss": objective("hp_loss"),
    "hp_loss, mean, no own token": objective("hp_loss", own_token=False, form="mean"),
    "hp_loss, not mixed, shuffled": objective("hp_loss", mixture=0.0, shuffled=True),
    "hp_dist": objective("hp_dist"),
    "hp_dist, not mixed, no own token": objective("hp_dist", own_token=False, mixture=0.0),
    "two_scalars": objective("two_scalars"),
    "two_scalars, not mixed, mean": objective("two_scalars", form="mean", mixture=0.0),
}


def sampler_of(name: str) -> Sampler:
    return roughened(build_sampler(SAMPLERS[name], MODEL, seed=0))


def first(masked: Masked, rows: int) -> Masked:
    """Some positions, their own leaves."""
    parts = {"features", "hidden", "original", "uniform"}
    cut = {key: part[:rows] if key in parts else part for key, part in vars(masked).items()}
    return Masked(**{key: part.detach().clone().requires_grad_(part.requires_grad) for key, part in cut.items()})


def both(
    masked: Masked, sampler: Sampler, tiling: Tiling, kernels: TileKernels, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All that a pass gives, by kernels and by torch's operations."""
    found = []
    for form in (partial(FusedSweeps, kernels=kernels), TorchSweeps):
        monkeypatch.setattr(vocabulary_pass, "sweeps_of", lambda _, __, strip, form=form: form(strip))
        given = vocabulary_pass.vocabulary_pass(masked, sampler, 1.0, entropy=True, tiling=tiling)
        results = {**vars(given), **vars(given.drawn)}
        results.pop("drawn")
        for number, gradient in enumerate(gradients(given.loss, masked, ElectraSampler())):
            results[f"gradient {number}"] = gradient
        found.append({key: part.detach() for key, part in results.items()})
    return found[0], found[1]


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert torch.equal(found["tokens"], wanted["tokens"])
    assert torch.equal(found["hits"], wanted["hits"])
    for key, part in wanted.items():
        torch.testing.assert_close(found[key], part, rtol=2e-5, atol=2e-6, msg=lambda said, key=key: f"{key}: {said}")


@pytest.mark.parametrize(
    ("name", "allow_original"), [*((name, True) for name in SAMPLERS), ("hp_loss", False), ("hp_dist", False)]
)
def test_a_samplers_pass_is_that_of_torchs_operations(
    name: str, allow_original: bool, kernels: TileKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(name)
    sampler.allow_original = allow_original
    assert_same(*both(positions(dtype=torch.float32), sampler, ON_DEVICE, kernels, monkeypatch))


@pytest.mark.parametrize(("rows", "columns"), [(0, 7), (0, V), (1, V), (1, 48), (23, 48), (23, 7)])
def test_any_number_of_positions_and_any_width_of_a_tile_give_the_same(
    rows: int, columns: int, kernels: TileKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = first(positions(dtype=torch.float32), rows)
    assert_same(*both(masked, sampler_of("hp_loss"), replace(ON_CPU, columns=columns), kernels, monkeypatch))


@pytest.mark.parametrize("name", ["electra", "temperature", "hp_loss", "hp_dist"])
def test_the_pass_is_that_of_an_enumeration(name: str, kernels: TileKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    masked, sampler = positions(dtype=torch.float32), sampler_of(name)
    monkeypatch.setattr(vocabulary_pass, "sweeps_of", lambda _, __, strip: FusedSweeps(strip, kernels))
    found = vocabulary_pass.vocabulary_pass(masked, sampler, 1.0, entropy=True, tiling=ON_DEVICE)
    wide = Masked(**{key: part.double() if part.is_floating_point() else part for key, part in vars(masked).items()})
    wanted = direct(wide, sampler.double(), 1.0)
    assert found.drawn is not None
    assert found.entropy is not None
    assert torch.equal(found.drawn.tokens, wanted["tokens"])
    assert found.hits is not None
    assert torch.equal(found.hits, wanted["hits"])
    torch.testing.assert_close(found.loss.double(), wanted["loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.drawn.weight.double(), wanted["weight"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.entropy.double(), wanted["entropy"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("values", ["huge", "impossible", "all equal", "ties"])
@pytest.mark.parametrize("name", ["temperature", "hp_loss", "hp_dist"])
def test_scores_of_every_size_give_what_torchs_operations_give(
    name: str, values: str, kernels: TileKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = positions(dtype=torch.float32)
    with torch.no_grad():
        if values == "huge":
            masked.bias[3], masked.bias[4], masked.bias[5] = 1e4, -1e4, 9.9e3
        elif values == "impossible":
            # The first tile is nothing but -inf.
            masked.bias[: V // 2] = -torch.inf
            masked.original[:] = V - 1
        else:
            masked.features.zero_()
            masked.bias.copy_(torch.arange(V) // 10 if values == "ties" else torch.zeros(V))
    found, wanted = both(masked, sampler_of(name), replace(ON_CPU, columns=V // 2), kernels, monkeypatch)
    assert all(part.isfinite().all() for part in found.values())
    assert_same(found, wanted)


@pytest.mark.parametrize("name", ["electra", "hp_loss"])
def test_scores_that_are_not_numbers_give_a_loss_that_says_so_and_tokens_of_the_vocabulary(
    name: str, kernels: TileKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = positions(dtype=torch.float32)
    with torch.no_grad():
        masked.bias[9] = torch.nan
    found, wanted = both(masked, sampler_of(name), ON_DEVICE, kernels, monkeypatch)
    assert found["loss"].isnan()
    assert not found["hits"].any()
    assert not wanted["hits"].any()
    assert ((found["tokens"] >= 0) & (found["tokens"] < V)).all()


@pytest.mark.parametrize("form", ["rms", "mean"])
def test_a_new_head_draws_the_tokens_of_plain_electra_with_weights_of_one(
    form: str, kernels: TileKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = positions(dtype=torch.float32)
    monkeypatch.setattr(vocabulary_pass, "sweeps_of", lambda _, __, strip: FusedSweeps(strip, kernels))
    plain = vocabulary_pass.propose(ElectraSampler(), masked, ON_DEVICE)
    drawn = vocabulary_pass.propose(build_sampler(objective("hp_loss", form=form), MODEL, 0), masked, ON_DEVICE)
    assert torch.equal(drawn.tokens, plain.tokens)
    assert torch.equal(drawn.weight, plain.weight)


def test_a_tilt_without_a_kernel_of_its_own_does_as_well(kernels: TileKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    masked = positions(dtype=torch.float32)
    rows = len(masked.original)
    tokens = torch.stack([masked.original, (masked.original + 5) % V], 1)
    hardness = torch.rand(rows, 2, generator=random(4)) + 0.1
    sampler = GivenHardnessSampler(tokens, hardness, torch.full((rows,), 0.5), 0.1)
    assert_same(*both(masked, sampler, ON_DEVICE, kernels, monkeypatch))


@pytest.mark.parametrize(
    ("columns", "strip", "rows_of_program"),
    [(1, 128, 8), (127, 128, 4), (129, 128, 1), (300, 128, 8), (6, 1, 4), (10, 4, 1)],
)
def test_a_kernel_writes_the_tile_and_its_strips_and_zeros_up_to_the_end_and_nothing_else(
    columns: int, strip: int, rows_of_program: int, kernels: TileKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of Triton's.
    monkeypatch.setattr(kernels, "_ROWS", rows_of_program, raising=False)
    rows, width = 5, -(-columns // strip) * strip
    # A product in memory of its own, as a device's products of 16 bits have it, and a bias of 16 bits.
    product = 4 * torch.randn(rows, columns, generator=random(0))
    bias = torch.randn(columns, generator=random(1)).bfloat16()
    place = torch.tensor([0, columns - 1, columns, -1, columns // 2])
    special = torch.tensor([-torch.inf, 7.0, 7.0, 7.0, -torch.inf])
    if columns == 1:
        special[0] = special[4] = 2.0
    buffer = torch.full((rows + 1, width + 8), 9.0)
    given = product.clone()
    parts = ScoreParts(columns, product, bias, special=special, place=place)
    in_tile, spread = torch.full((rows,), 5.0), torch.empty(rows)
    relative = torch.empty(rows, columns)
    top, sums = kernels.exponentials(parts, buffer[:rows, :width], strip, relative, spread, in_tile)
    plain = given.double() + bias.double()
    inside = (place >= 0) & (place < columns)
    own = plain.gather(1, place.clamp(0, columns - 1)[:, None])[:, 0]
    torch.testing.assert_close(in_tile.double(), torch.where(inside, own, 5.0), rtol=1e-6, atol=1e-6)
    score = torch.where(torch.arange(columns) == place[:, None], special[:, None].double(), plain)
    torch.testing.assert_close(top.double(), score.amax(-1), rtol=1e-6, atol=1e-6)
    wanted = torch.zeros(rows, width, dtype=torch.float64)
    wanted[:, :columns] = (score - top[:, None]).exp()
    torch.testing.assert_close(buffer[:rows, :width].double(), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(sums.double(), wanted.unflatten(1, (-1, strip)).sum(-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(relative.double(), score - top[:, None], rtol=1e-6, atol=1e-6)
    product_of_both = torch.where(wanted[:, :columns] == 0, 0.0, wanted[:, :columns] * (score - top[:, None]))
    torch.testing.assert_close(spread.double(), product_of_both.sum(-1), rtol=1e-5, atol=1e-6)
    assert (buffer[:, width:] == 9.0).all()
    assert (buffer[rows] == 9.0).all()


@pytest.mark.parametrize(("columns", "strip"), [(1, 128), (129, 128), (300, 128), (6, 1), (10, 4)])
def test_strips_are_summed_to_the_bits_that_the_kernel_gave_that_wrote_them(
    columns: int, strip: int, kernels: TileKernels
) -> None:
    rows, width = 5, -(-columns // strip) * strip
    out = torch.full((rows, width), 9.0)
    product = 4 * torch.randn(rows, columns, generator=random(0))
    _, sums = kernels.exponentials(ScoreParts(columns, product), out, strip)
    again = out.clone()
    again[:, columns:] = 9.0
    assert torch.equal(kernels.summed(again, columns, strip), sums)
    assert torch.equal(again, out)


@pytest.mark.parametrize("rms", [True, False])
def test_hardness_is_softplus_to_float32s_precision_at_every_score(rms: bool, kernels: TileKernels) -> None:
    scores = torch.cat([torch.linspace(-80, 80, 1001), torch.logspace(-30, 4, 100), -torch.logspace(-30, 1.9, 100)])
    scores = torch.cat([scores, torch.tensor([0.0, 1e4, -1e4, -torch.inf])])
    columns, width = len(scores), -(-len(scores) // 128) * 128
    out, unit = torch.empty(1, width), torch.tensor([0.3])
    ones = torch.ones(1, columns)
    kernels.hardened(ScoreParts(columns, scores[None].clone()), unit, rms, 1e-12, ones, out, 128)

    def hardness(score: Tensor) -> Any:
        positive = torch.nn.functional.softplus(score.double().clamp(max=88.0))
        return (positive.sqrt() if rms else positive) + 1e-12

    wanted = hardness(scores) / hardness(unit)
    torch.testing.assert_close(out[0, :columns].double(), wanted, rtol=6e-6, atol=0)


def test_the_check_of_a_device_passes_here_and_fails_for_a_kernel_that_is_wrong(
    kernels: TileKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(kernels, torch.device("cpu"))
    right = kernels.softened
    monkeypatch.setattr(kernels, "softened", lambda relative, temperature, *rest: right(relative, 2.0, *rest))
    with pytest.raises(ArithmeticError, match="softened"):
        check(kernels, torch.device("cpu"))
