"""The study's figures: known metrics give known entries of the table."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study.arms import Study, Warmup
from benchmarks.study.cost import ArmCost, PhaseCost
from benchmarks.study.figures import (
    COLUMNS,
    Values,
    compare_speeds,
    run_figures,
    steps_to,
    summarise,
    variance_over_steps,
)
from benchmarks.study.plots import by_operations, moving_variance
from benchmarks.study.report import markdown, report

from .conftest import write_run

STEPS = 40


def alternating(level: float, size: float, slope: float = 0.0) -> list[float]:
    return [level + slope * step + size * (-1) ** (step // 2) for step in range(STEPS)]


def write_probe(run: Path, plain: float, weighted: float) -> None:
    (run / "probe").mkdir()
    figures = {
        "gradient_ratio": 0.9,
        "gradient_ratio_error": 0.05,
        "mean_loss_p": plain,
        "mean_weighted_loss_q": weighted,
        "mean_difference_error": 0.01,
    }
    (run / "probe/step-00000040.json").write_text(json.dumps({"step": 40, "figures": figures, "frequency": []}))


def write_detection(run: Path, auc: float) -> None:
    figures = {"auc": auc, "discriminator_loss": 0.5, "generator_cross_entropy": 5.0}
    (run / "detection.json").write_text(json.dumps(figures))


@pytest.fixture
def finished(small: Study) -> Study:
    """Both arms with both seeds, made up so that every entry can be worked out in the head."""
    # By arm and seed: size of the loss' swing, draw ratio, AUC.
    made_up = {
        ("electra", 0): (0.02, 1.0, 0.60),
        ("electra", 1): (0.04, 1.0, 0.70),
        ("hp_loss_own", 0): (0.01, 0.4, 0.61),
        ("hp_loss_own", 1): (0.02, 0.2, 0.73),
    }
    for (arm, seed), (size, ratio, auc) in made_up.items():
        losses = alternating(0.5, size, slope=-0.001)
        run = small.run(arm, seed)
        write_run(
            run,
            STEPS,
            {
                "loss/discriminator": lambda step, losses=losses: losses[step - 1],
                # Measured at every tenth step, larger in the first probe.
                "disc_loss_variance/draw_ratio": lambda step, ratio=ratio: (
                    None if step % 10 else ratio + (0.1 if step == 10 else 0.0)
                ),
                "sampling/identical_rate": lambda step: 0.2 if step <= 20 else 0.1,
                "sampling/weight_max": lambda step: float(step),
            },
        )
        write_detection(run, auc)
    write_probe(small.run("hp_loss_own", 0), plain=0.80, weighted=0.82)
    for seed in small.seeds:
        write_run(
            small.warmup(seed, Warmup()),
            6,
            {"eval/generator_cross_entropy": lambda step: 6.0 - step / 10},
            "generator_warmup",
        )
    return small


def test_a_run_folder_gives_the_figures_that_its_rows_hold(finished: Study) -> None:
    figures = run_figures(finished.run("hp_loss_own", 0), STEPS)
    assert figures["draw_ratio_early"] == pytest.approx(0.4)
    assert figures["draw_ratio_late"] == pytest.approx(0.4)
    assert figures["draw_ratio_max"] == pytest.approx(0.5)
    assert figures["identical"] == pytest.approx(0.1)
    assert figures["weight_max"] == 40.0
    assert figures["bias"] == pytest.approx(0.025)
    assert figures["bias_error"] == pytest.approx(0.0125)
    assert (figures["gradient_ratio"], figures["gradient_ratio_error"]) == (0.9, 0.05)
    assert (figures["auc"], figures["generator_cross_entropy"]) == (0.61, 5.0)


def test_what_was_asked_of_the_encoder_is_read_from_its_files(small: Study) -> None:
    run = small.run("hp_loss_own", 0)
    asked = {
        "pairs": {"pairs_swapped": 0.9, "pairs_replaced": 0.8},
        "pairs_by_generator": {"pairs_swapped": 0.95},
        "masked": {"masked_cross_entropy": 3.5},
        "frozen": {"cola": 0.7},
    }
    for folder, scores in asked.items():
        (run / folder).mkdir(parents=True)
        content = {"scores": [{"name": name, "value": value} for name, value in scores.items()]}
        (run / folder / "probe-40.json").write_text(json.dumps(content))
    (run / "tuned").mkdir()
    result = {"task": "mrpc", "metric": "f1", "mean": {"f1": 0.82, "accuracy": 0.7}}
    (run / "tuned/suite.json").write_text(json.dumps({"version": 1, "results": [result]}))
    found = {name: value for name, value in run_figures(run, STEPS).items() if value is not None}
    assert found == {
        "pairs_swapped": 0.9,
        "pairs_replaced": 0.8,
        "generator_pairs_swapped": 0.95,
        "masked_cross_entropy": 3.5,
        "frozen_cola": 0.7,
        "tuned_mrpc": 0.82,
    }


def test_a_run_is_as_far_as_the_baseline_ends_where_its_curve_first_is_there(small: Study) -> None:
    aucs = {"electra": {20: 0.5, 40: 0.6}, "hp_loss_own": {10: 0.5, 20: 0.55, 40: 0.65}}
    runs: dict[tuple[str, int], Values] = {}
    for arm, by_step in aucs.items():
        run = small.run(arm, 0)
        run.mkdir(parents=True)
        found = {"auc": by_step[40], "by_step": {str(step): {"auc": auc} for step, auc in by_step.items()}}
        (run / "detection.json").write_text(json.dumps(found))
        runs[arm, 0] = run_figures(run, STEPS)
    compare_speeds(small, runs)
    assert runs["electra", 0]["auc_reached"] == pytest.approx(1.0)
    # 0.6 lies half way between 0.55 and 0.65, so at step 30 of 40.
    assert runs["hp_loss_own", 0]["auc_reached"] == pytest.approx(0.75)
    assert steps_to(np.array([[10, 0.5], [20, 0.55]]), 0.6) is None
    assert steps_to(np.array([[10, 0.5], [20, 0.55]]), 0.4) == 10


def test_arms_with_other_phases_are_drawn_along_operations_and_shown_with_their_cost(finished: Study) -> None:
    joint = PhaseCost("joint", STEPS, 3e9, 2048)
    cost = {
        "electra": ArmCost((PhaseCost("generator_warmup", 100, 1e9, 2048), joint)),
        "hp_loss_own": ArmCost((PhaseCost("mlm", 218, 1e9, 2048),)),
    }
    assert by_operations(np.array([[10.0, 0.5], [40.0, 0.6]]), cost["electra"]).tolist() == [[0.13, 0.5], [0.22, 0.6]]
    text = markdown({}, {}, None, "electra", cost, [["arm", "warmup", "warmup-b"], ["electra", "0.6", "0.7"]])
    row = cells(text, "## Cost", "hp_loss_own")
    assert list(row.values()) == ["hp_loss_own", "218 mlm", "0.22", "-0.9%", "0.45"]
    assert cells(text, "## Cost", "electra")["steps"] == "100 generator_warmup + 40 joint"
    assert cells(text, "## AUC against each", "electra")["warmup-b"] == "0.7"


def test_rows_of_masked_prediction_alone_are_those_of_its_arm(small: Study) -> None:
    run = small.run("electra", 0)
    write_run(run, STEPS, {"speed/tokens_per_second": float}, "mlm")
    assert run_figures(run, STEPS)["tokens_per_second"] == (STEPS + 1) / 2


def test_what_is_absent_is_not_measured_and_nothing_is_made_up(tmp_path: Path) -> None:
    assert set(run_figures(tmp_path, STEPS).values()) == {None}
    write_run(tmp_path, STEPS, {"loss/discriminator": lambda step: 0.5 + step % 2, "sampling/ess": lambda _: None})
    found = {name for name, value in run_figures(tmp_path, STEPS).items() if value is not None}
    assert found == {"step_variance_early", "step_variance_late"}


def test_means_deviations_and_paired_differences_are_those_of_the_seeds(finished: Study) -> None:
    runs = {(arm, seed): run_figures(finished.run(arm, seed), STEPS) for arm in finished.arms for seed in (0, 1)}
    own = summarise(runs, "electra")["hp_loss_own"]
    assert own["auc"].mean == pytest.approx(0.67)
    assert own["auc"].deviation == pytest.approx(0.12 / math.sqrt(2))
    assert own["auc"].paired == {0: pytest.approx(0.01), 1: pytest.approx(0.03)}
    assert own["auc"].paired_mean == pytest.approx(0.02)
    assert own["auc"].paired_deviation == pytest.approx(0.02 / math.sqrt(2))
    # Half the swing is a quarter of the variance, whatever the loss' slope and the seed's own level of it.
    for part in ("early", "late"):
        assert own[f"step_variance_{part}"].paired == {0: pytest.approx(0.25), 1: pytest.approx(0.25)}
    assert own["gradient_ratio"].mean == 0.9
    assert own["gradient_ratio"].deviation is None
    assert summarise(runs, "electra")["electra"]["auc"].paired == {}
    assert summarise(runs, "electra")["electra"]["gradient_ratio"].mean is None


def test_a_seed_without_a_baseline_has_no_paired_difference() -> None:
    empty: Values = {column.name: None for column in COLUMNS}
    runs = {
        ("electra", 0): {**empty, "auc": 0.6},
        ("focal", 0): {**empty, "auc": 0.5},
        ("focal", 1): {**empty, "auc": 1.0},
    }
    focal = summarise(runs, "electra")["focal"]["auc"]
    assert focal.values == {0: 0.5, 1: 1.0}
    assert focal.paired == {0: pytest.approx(-0.1)}


def cells(text: str, heading: str, arm: str) -> dict[str, str]:
    """A row of the table under a heading, by column."""
    section = text.split(heading)[1].split("## ")[0]
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in section.splitlines() if "|" in line]
    row = next(line for line in lines if line[0] == arm)
    return dict(zip(lines[0], row, strict=True))


def test_the_table_shows_them_as_text(finished: Study) -> None:
    path = report(finished)
    text = path.read_text()
    row = cells(text, "## Arms: mean", "hp_loss_own")
    assert row["seeds"] == "2"
    assert row["draw ratio, late"] == "0.300 ± 0.141"
    assert row["AUC, common generator"] == "0.6700 ± 0.0849"
    assert row["gradient ratio"] == "0.900"
    assert row["mean of w l over plain mean, less 1"] == "+2.50%"
    assert "effective sample size" not in row, "no arm has it"
    assert cells(text, "## Arms: mean", "electra")["gradient ratio"] == "not measured"
    paired = cells(text, "## Arms against electra", "hp_loss_own")
    assert paired["AUC, common generator"] == "+0.0200 ± 0.0141"
    assert paired["variance of L_D, late"] == "0.25 ± 0.00"
    assert "accuracy" not in paired
    assert cells(text, "## Generators", "1")["held-out loss, nats"] == "5.400"
    stored = json.loads((finished.out / "study.json").read_text())
    assert stored["arms"]["hp_loss_own"]["auc"]["paired"] == {"0": pytest.approx(0.01), "1": pytest.approx(0.03)}
    assert stored["arms"]["hp_loss_own"]["ess"]["mean"] is None
    for plot in ("draw_ratio", "auc"):
        assert (finished.out / f"plots/{plot}.png").stat().st_size > 10_000


def test_targets_are_met_or_missed_by_the_figures(finished: Study) -> None:
    text = report(finished).read_text()

    def verdict(target: str) -> str:
        return " ".join(list(cells(text, "## Targets", target).values())[1:])

    assert verdict("hp_loss_own: draw ratio, late") == "0.3000, at most 0.3500 met"
    assert verdict("hp_loss_own: draw ratio, late, against two_scalars") == "not measured open"
    assert verdict("hp_loss_own: largest draw ratio of any seed") == "0.5000, at most 1.0500 met"
    assert verdict("hp_loss_own: variance of L_D over steps against electra, late") == "0.2500, at most 0.7500 met"
    assert verdict("hp_loss_own: mean of w l off the plain mean by") == "0.0250, at most 0.0100 missed"
    below = "hp_loss_own: AUC below that of electra by, against its deviation over seeds"
    assert verdict(below) == "-0.0200, at most 0.0707 met"


def test_a_run_that_is_not_finished_is_left_out(finished: Study) -> None:
    text = report(dataclasses.replace(finished, steps=STEPS + 1)).read_text()
    assert "hp_loss_own" not in text.split("## Targets")[0]


def test_a_generator_is_shown_beside_the_unigram_entropy() -> None:
    text = markdown({}, {"0": {"generator_cross_entropy": 5.25}}, 6.5, "electra", {}, [])
    assert cells(text, "## Generators", "0") == {
        "seed": "0",
        "held-out loss, nats": "5.250",
        "unigram entropy": "6.500",
        "below it": "1.250",
    }


def test_the_variance_over_steps_is_unbiased_and_blind_to_a_trend() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0.0, 0.3, 20_000)
    assert variance_over_steps(noise) == pytest.approx(0.09, rel=0.03)
    trend = 5.0 - 0.01 * np.arange(20_000)
    assert variance_over_steps(noise + trend) == pytest.approx(variance_over_steps(noise))
    assert variance_over_steps(trend) == pytest.approx(0.0, abs=1e-12)
    assert variance_over_steps(noise[:2]) is None


def test_the_moving_variance_is_that_of_the_steps_before() -> None:
    random = np.random.default_rng(1)
    losses = np.stack([np.arange(1, 251), random.normal(size=250)], 1)
    curve = moving_variance(losses)
    assert curve[0].tolist() == [100.0, variance_over_steps(losses[:100, 1])]
    assert curve[-1].tolist() == [250.0, variance_over_steps(losses[150:, 1])]
    assert len(moving_variance(losses[:99])) == 0
