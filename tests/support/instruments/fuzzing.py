"""Many generated inputs for one promise, for as long as ``FUZZ_SECONDS`` says (``make fuzz``), reproducible by seed."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def explore(inputs: SearchStrategy[T], answer: Callable[[T], str], examples: int = 20) -> Counter[str]:
    """Give inputs to ``answer``, which says in a word or two what the program did, and count its answers.

    Rounds of ``examples`` inputs, each round with the next seed, until ``FUZZ_SECONDS`` (one round if it is not set)
    have passed. The first seed is ``FUZZ_SEED``, else 1; an input that fails is reduced by hypothesis, and the seed of
    its round is printed.
    """
    seconds = float(os.environ.get("FUZZ_SECONDS", "0"))
    number = int(os.environ.get("FUZZ_SEED", "1"))
    began = time.monotonic()
    counts: Counter[str] = Counter()
    first = number
    while number == first or time.monotonic() - began < seconds:
        print(f"seed {number}", flush=True)

        @seed(number)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(inputs)
        def one_round(found: T) -> None:
            counts[answer(found)] += 1

        one_round()
        number += 1
    print(f"seeds {first} to {number - 1}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    return counts
