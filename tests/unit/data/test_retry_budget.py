"""The retry budget: pauses that grow, one line for each failure, an end with the reason."""

from __future__ import annotations

import pytest

from data_pipeline.errors import OneRankError
from data_pipeline.places.place import Unavailable
from electra_scale.data import retry_budget
from electra_scale.data.retry_budget import RetryBudget


class Clock:
    """Time that passes only during a sleep."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry_budget, "time", clock)
    return clock


def request(failures: list[Unavailable]) -> str:
    if failures:
        raise failures.pop()
    return "answer"


def answer_after_failures(budget: RetryBudget, number: int) -> None:
    failures = [Unavailable("no connection")] * number
    assert budget.retry(lambda: request(failures)) == "answer"
    assert failures == []


def test_a_request_is_made_again_with_growing_pauses_until_it_is_answered(clock: Clock) -> None:
    logged: list[str] = []
    budget = RetryBudget(15.0, logged.append)
    answer_after_failures(budget, 8)
    assert clock.now == 1000.0 + 1 + 2 + 4 + 8 + 16 + 30 + 30 + 30
    assert budget.failures == 8
    assert logged[0] == (
        "the store does not answer (no connection); training continues from the cache; attempt 1, giving up in 15 min"
    )
    assert logged[-1] == "the store answers again after 2.02 min"
    assert len(logged) == 9


def test_an_answer_fills_the_budget_again(clock: Clock) -> None:
    budget = RetryBudget(1.0, lambda _: None)
    for _ in range(10):
        answer_after_failures(budget, 5)
    budget.check()


def test_a_store_that_never_answers_ends_the_run_with_the_last_reason(clock: Clock) -> None:
    budget = RetryBudget(0.5, lambda _: None)
    with pytest.raises(OneRankError) as refusal:
        budget.retry(lambda: request([Unavailable("no connection")]))
    assert str(refusal.value) == (
        "giving up after 0.5 min and 6 attempts (data.give_up_minutes): no connection; "
        "continue with --resume auto when the store answers again"
    )
    assert clock.now - 1000.0 < 35


def test_without_minutes_the_first_failure_is_the_last(clock: Clock) -> None:
    with pytest.raises(OneRankError, match=r"giving up after 0 min and 1 attempt \(data"):
        RetryBudget(0.0, lambda _: None).retry(lambda: request([Unavailable("no connection")]))
