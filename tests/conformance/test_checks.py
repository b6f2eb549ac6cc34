"""The checks themselves: they pass what is sound, and each finds what is broken, and that alone."""

from __future__ import annotations

import pytest

from tests.conformance.observed import observe
from tests.conformance.plain import BROKEN, SOUND, Plain
from tests.conformance.promises import PROMISES


def broken_promises(trainer: Plain) -> set[str]:
    seen = observe(trainer)
    return {name for name, check in PROMISES.items() if check(seen).outcome == "broken"}


@pytest.mark.parametrize("kind", SOUND, ids=lambda kind: kind.__name__)
def test_a_sound_trainer_keeps_every_promise(kind: type[Plain]) -> None:
    assert broken_promises(kind()) == set()


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_trainer_breaks_just_the_promises_that_it_should(kind: type[Plain]) -> None:
    assert broken_promises(kind()) == BROKEN[kind]


def test_every_promise_is_broken_by_some_trainer() -> None:
    assert set.union(*BROKEN.values()) == set(PROMISES)
