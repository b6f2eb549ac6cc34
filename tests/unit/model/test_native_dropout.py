"""Native dropout: which values are dropped, by a plain form of its generator, and how bf16 is rounded."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from electra_scale.model import native_dropout
from electra_scale.model.dropout import drop

WORDS = (1 << 32) - 1
LONGS = (1 << 64) - 1
BLOCK, LANES = 4096, 16
SEED = 0x6D0F27BD9C1B5A34

pytestmark = pytest.mark.usefixtures("c_compiler")


def mixed(state: int) -> int:
    """SplitMix64's output."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & LONGS
    state = (state ^ state >> 27) * 0x94D049BB133111EB & LONGS
    return state ^ state >> 31


def words_of(seed: int, lane: int, count: int) -> list[int]:
    """Of the ``lane``-th generator: xoshiro128++, as its authors write it down."""

    def rotated(number: int, by: int) -> int:
        return (number << by | number >> (32 - by)) & WORDS

    first, second = (mixed((mixed(seed) + (2 * lane + k) * 0x9E3779B97F4A7C15) & LONGS) for k in (1, 2))
    s = [first & WORDS, first >> 32, second & WORDS, second >> 32 | 1]
    found = []
    for _ in range(count):
        found.append((rotated((s[0] + s[3]) & WORDS, 7) + s[0]) & WORDS)
        t = s[1] << 9 & WORDS
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotated(s[3], 11)
    return found


def numbers_of(seed: int, count: int) -> list[int]:
    found: list[int] = []
    for block in range(-(-count // BLOCK)):
        of_lanes = [words_of(seed, block * LANES + lane, BLOCK // LANES // 2) for lane in range(LANES)]
        for words in zip(*of_lanes, strict=True):
            for word in words:
                found += [word & 0xFFFF, word >> 16]
    return found[:count]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 31, 33, 4095, 4097, 20_000])
def test_what_is_dropped_is_what_the_generator_says(count: int, dtype: torch.dtype) -> None:
    found = native_dropout.dropped(torch.ones(count, dtype=dtype), 20_000, 1.5, SEED)
    expected = torch.tensor([0.0 if number < 20_000 else 1.5 for number in numbers_of(SEED, count)], dtype=dtype)
    assert torch.equal(found, expected)


def test_bf16_is_rounded_as_torch_rounds_it() -> None:
    values = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    found, expected = native_dropout.dropped(values, 0, 65_536 / 58_982, SEED), values * (65_536 / 58_982)
    assert torch.equal(found.isnan(), values.isnan())
    assert torch.equal(found[~values.isnan()], expected[~values.isnan()])


def test_without_a_compiler_numpy_takes_its_place_and_a_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native_dropout, "_functions", functools.cache(native_dropout._functions.__wrapped__))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    for _ in range(2):
        assert 300 < int((drop(torch.ones(1000), 0.5) == 0).sum()) < 700
    (said,) = caplog.messages
    assert said.startswith("dropout takes numpy's random numbers, which are slower: native code: ")
    assert said.endswith("install a C compiler (gcc), or name one in CC")
