"""Alarms: each signature of failure gives one sentence an episode, and a healthy run none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from electra_scale.monitor.alarms import LOGGED, LONG, PROBES, Alarms, signatures

HEALTHY = {
    "gen/accuracy": 0.4,
    "sampling/identical_rate": 0.1,
    "sampling/ess": 0.6,
    "sampling/weight_max": 8.9,
    "sampling/hardness_rank_correlation": 0.3,
    "sampling/hardness_rank_correlation_within": 0.3,
    "disc/auc": 0.6,
    "eval/auc": 0.6,
    "disc_loss_variance/draw_ratio": 0.4,
}


def make_alarms(
    learns: bool = True,
    weight_bound: float = 10.0,
    evaluates: bool = True,
    probes: bool = True,
    warmup_steps: int = 50,
    joint_from: int = 100,
    start_after: int = 0,
    other_objective: bool = False,
) -> Alarms:
    sampler_from = joint_from + start_after
    return Alarms(
        signatures(learns, weight_bound, evaluates, probes, warmup_steps, joint_from, sampler_from, other_objective)
    )


def sentences(alarms: Alarms, first: int, rows: int, every: int = 10, **changes: float) -> list[str]:
    """The alarms for some rows whose values are healthy except for ``changes``."""
    values = HEALTHY | {name.replace("__", "/"): value for name, value in changes.items()}
    return [sentence for row in range(rows) for sentence in alarms.see(first + row * every, values)]


def test_a_healthy_run_gets_no_alarm() -> None:
    assert sentences(make_alarms(), 1, 500) == []


FAILURES = [
    ("gen/accuracy", 0.95, "too strong", "95%", LOGGED),
    ("sampling/identical_rate", 0.97, "equal the original", "97%", LOGGED),
    ("sampling/ess", 0.11, "weights explode", "0.11", LOGGED),
    ("sampling/weight_max", 9.95, "largest weight", "9.9", LONG),
    ("sampling/hardness_rank_correlation_within", -0.01, "unrelated to", "-0.01", PROBES),
    ("eval/auc", 0.501, "stuck at chance", "0.501", PROBES),
    ("disc_loss_variance/draw_ratio", 1.4, "noisier", "1.40", PROBES),
]


@pytest.mark.parametrize(("tag", "value", "what", "shown", "window"), FAILURES)
def test_a_signature_gives_one_sentence_that_says_what_since_when_and_what_to_do(
    tag: str, value: float, what: str, shown: str, window: int
) -> None:
    alarms = make_alarms()
    assert sentences(alarms, 5000, 3 * LONG) == []
    (sentence,) = sentences(alarms, 10000, 5 * LONG, **{tag: value})
    assert what in sentence
    assert shown in sentence
    assert "since step 10000" in sentence
    # Once more than half of the window shows it.
    assert f"alarm at step {10000 + 10 * (window // 2)}:" in sentence
    assert any(advice in sentence for advice in ("corruption.", "optimizer.", "model."))


@pytest.mark.parametrize(("tag", "value", "what", "shown", "window"), FAILURES)
def test_an_alarm_is_repeated_only_after_its_episode_was_over(
    tag: str, value: float, what: str, shown: str, window: int
) -> None:
    alarms = make_alarms()
    assert len(sentences(alarms, 5000, 2 * LONG, **{tag: value})) == 1
    signature = next(signature for signature in alarms.signatures if signature.tag == tag)
    between = (signature.bound + signature.over) / 2
    # Back over the bound, but not out of the doubtful range: the same episode.
    for first in (20000, 30000, 40000):
        assert sentences(alarms, first, 2 * LONG, **{tag: between}) == []
        assert sentences(alarms, first + 5000, 2 * LONG, **{tag: value}) == []
    assert sentences(alarms, 50000, 2 * LONG) == []
    assert len(sentences(alarms, 60000, 2 * LONG, **{tag: value})) == 1


@pytest.mark.parametrize(("tag", "value", "what", "shown", "window"), FAILURES)
def test_a_single_outlier_is_no_failure(tag: str, value: float, what: str, shown: str, window: int) -> None:
    alarms = make_alarms()
    for first in range(5000, 50000, 5000):
        assert sentences(alarms, first, 1, **{tag: value}) == []
        assert sentences(alarms, first + 10, 2) == []


@pytest.mark.parametrize(
    ("tag", "value", "watched_after"),
    [("sampling/hardness_rank_correlation_within", 0.0, 600), ("eval/auc", 0.5, 1100)],
)
def test_what_needs_time_to_learn_is_not_watched_before(tag: str, value: float, watched_after: int) -> None:
    assert sentences(make_alarms(), 10, watched_after // 10, **{tag: value}) == []
    assert len(sentences(make_alarms(), 10, watched_after // 10 + PROBES, **{tag: value})) == 1
    slow = make_alarms(warmup_steps=10_000)
    assert sentences(slow, 10, 1010, **{tag: value}) == []
    assert len(sentences(slow, 10, 1010 + PROBES, **{tag: value})) == 1


def test_only_what_a_run_has_is_watched() -> None:
    plain = make_alarms(learns=False, weight_bound=0.0)
    flat = {"sampling/hardness_rank_correlation_within": 0.0, "sampling/ess": 0.01, "sampling/weight_max": 99.0}
    assert sentences(plain, 5000, 2 * LONG, **flat) == []
    unbounded = make_alarms(weight_bound=math.inf)
    assert sentences(unbounded, 5000, 2 * LONG, **{"sampling/weight_max": 1e6}) == []
    assert len(sentences(unbounded, 15000, 2 * LONG, **{"sampling/ess": 0.01})) == 1
    (sentence,) = sentences(make_alarms(learns=False), 5000, 9, **{"disc_loss_variance/draw_ratio": 8.0})
    assert "temperature" in sentence
    assert "head" not in sentence


def test_the_noise_of_two_objectives_is_not_compared() -> None:
    alarms = make_alarms(other_objective=True)
    assert sentences(alarms, 5000, 2 * LONG, **{"disc_loss_variance/draw_ratio": 8.0}) == []


def test_without_probes_and_held_out_text_the_training_batches_are_watched() -> None:
    alarms = make_alarms(evaluates=False, probes=False)
    stuck = {"disc/auc": 0.5, "sampling/hardness_rank_correlation": 0.0}
    assert len(sentences(alarms, 5000, LOGGED, **stuck)) == 2


def test_missing_values_are_ignored() -> None:
    alarms = make_alarms()
    for step in range(5000, 5100, 10):
        assert alarms.see(step, {"eval/auc": None, "sampling/ess": math.nan, "gen/accuracy": math.inf}) == []
    assert alarms.see(6000, {}) == []


def test_a_resumed_run_gives_the_alarms_that_the_straight_run_would_have_given(tmp_path: Path) -> None:
    rows = [(step, HEALTHY | {"eval/auc": 0.5 if step > 3000 else 0.6}) for step in range(10, 6000, 10)]
    straight = make_alarms()
    given = [(step, sentence) for step, values in rows for sentence in straight.see(step, values)]
    assert len(given) == 1
    path = tmp_path / "metrics.jsonl"
    for stop in (0, 100, 301, 302, 400):
        lines = [json.dumps({"step": step, "phase": "joint"} | values) + "\n" for step, values in rows[:stop]]
        path.write_text("".join(lines))
        resumed = make_alarms()
        resumed.read(path)
        later = [(step, sentence) for step, values in rows[stop:] for sentence in resumed.see(step, values)]
        assert later == [(step, sentence) for step, sentence in given if step > (rows[stop - 1][0] if stop else 0)]


def test_a_missing_metrics_file_is_accepted(tmp_path: Path) -> None:
    make_alarms().read(tmp_path / "metrics.jsonl")


def test_a_head_that_draws_later_is_watched_later() -> None:
    late = make_alarms(start_after=5_000)
    useless = {"sampling__hardness_rank_correlation_within": 0.0}
    assert sentences(late, 1, 500, every=10, **useless) == []
    assert len(sentences(late, 6_000, 50, every=10, **useless)) == 1


def spikes(losses: list[float], tag: str = "loss/discriminator") -> list[str]:
    alarms = make_alarms()
    return [sentence for step, loss in enumerate(losses) for sentence in alarms.see(step, HEALTHY | {tag: loss})]


def test_a_jump_of_a_loss_is_flagged_once_and_its_usual_noise_is_not() -> None:
    noisy = [0.2 + 0.02 * math.sin(7 * step) for step in range(200)]
    assert spikes(noisy) == []
    assert spikes([6.0 - 0.01 * step for step in range(300)]) == []
    (sentence,) = spikes([*noisy, 0.9, 0.8, 0.21])
    assert "loss/discriminator jumped to 0.9 from about 0.2" in sentence
    assert len(spikes([*noisy, 0.9, 0.2, 0.9])) == 2
    assert spikes([*noisy[:10], 0.9]) == []
    assert len(spikes([*noisy, 0.9], "loss/generator")) == 1


def test_the_joint_phase_is_not_compared_with_the_warm_up() -> None:
    alarms = make_alarms()
    for step in range(100):
        assert alarms.see(step, {"loss/generator": 2.0}) == []
    assert alarms.see(101, HEALTHY | {"loss/generator": 4.0, "loss/discriminator": 0.6}) == []
