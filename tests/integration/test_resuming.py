"""What changes at a resume holds from the next step on, or is refused before anything is written; and failed starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipeline.errors import UserError
from electra_scale.cli import main as electra_scale
from electra_scale.commands.requeue import decide
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.networks import load_module
from tests.support.fixtures.runs import RECIPE, plain, ranks, rows, run

pytestmark = pytest.mark.slow

STEPS, RESUMED = 6, 4
MODULE = "tests.support.programs.several_starts"


def write(folder: Path, store: Path) -> Path:
    """A recipe of six joint steps, and variants of its DeepSpeed JSON."""
    content = json.loads(json.dumps(RECIPE))
    json_file = folder / "zero2.json"
    deepspeed = json.loads(Path(content["deepspeed"]).read_text())
    json_file.write_text(json.dumps(deepspeed))
    for name, value in (("odd", {"type": "Odd"}), ("none", None)):
        changed = {key: part for key, part in deepspeed.items() if key != "optimizer" or value is not None}
        if value is not None:
            changed["optimizer"] = deepspeed["optimizer"] | value
        (folder / f"{name}.json").write_text(json.dumps(changed))
    earlier = json.loads(json.dumps(deepspeed))
    del earlier["optimizer"]["params"]["fused"], earlier["zero_optimization"]["reduce_bucket_size"]
    (folder / "earlier.json").write_text(json.dumps(earlier))
    content |= {"deepspeed": str(json_file), "checkpoint": {"every": 2, "keep": 9}}
    content["data"]["store"] = str(store)
    content["schedule"] = {"steps": STEPS, "warmup_steps": 1}
    content["generator_warmup"] = {"steps": 0}
    content["optimizer"]["parts"] = {"discriminator": {"rate": 0.5, "schedule": "constant"}}
    content["logging"] = {"every": 1, "evaluate_every": 100, "evaluate_samples": 4, "peak_tflops": 0.05}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def resumed(folder: Path, name: str, *arguments: str) -> list[Any]:
    """Orders to copy the straight run as it was at its second checkpoint, and to resume it with other settings."""
    copy = {"copy": str(folder / "straight"), "to": str(folder / name), "step": RESUMED}
    return [copy, ["--run_dir", str(folder / name), "--resume", "auto", *arguments]]


def starts(number: int, folder: Path, recipe: Path, orders: Sequence[Any]) -> list[dict[str, str]]:
    """What each start printed and by what it was ended, all in the same processes."""
    lines = [["--config", str(recipe), *order] if isinstance(order, list) else order for order in orders]
    file = folder / f"orders-{number}"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = plain(file, module=MODULE) if number == 1 else ranks(number, file, module=MODULE)
    result = run(command, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"error"')]


APPLIED = {
    "weight_decay": ("--optimizer.weight_decay", "0.5"),
    "betas": ("--optimizer.betas", "[0.5, 0.9]"),
    "clip": ("--optimizer.clip", "0.01"),
    "generator_rate": ("--optimizer.generator_rate", "0.1"),
    "frozen": ("--optimizer.parts", "{generator: {frozen: true}, discriminator: {rate: 0.5, schedule: constant}}"),
    "no longer constant": ("--optimizer.parts", "{discriminator: {rate: 0.5, schedule: phase}}"),
    "mask_share": ("--data.mask_share", "0.4"),
}
SAMPLERS = {
    "electra": "left out: the recipe has none",
    "hp_dist": "starts fresh: the checkpoint's is another one",
}
REFUSED = {
    "heads": ("--model.discriminator.heads", "4"),
    "precision": ("--deepspeed", "zero2_bf16"),
    "global_batch": ("--batch.global_batch", "4"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resuming")


@pytest.fixture(scope="module")
def recipe(folder: Path, store: Path) -> Path:
    return write(folder, store)


@pytest.fixture(scope="module")
def one_rank(folder: Path, recipe: Path, store: Path) -> dict[str, dict[str, str]]:
    """Every start on one rank, by name; the runs are in folders of the same names."""
    broken = folder / "broken-store"
    shutil.copytree(store, broken)
    for shard in broken.glob("train-*.arrow"):
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    orders: dict[str, list[Any]] = {
        "straight": [["--run_dir", str(folder / "straight")]],
        "same": resumed(folder, "same"),
        "regrouped": resumed(folder, "regrouped", "--optimizer.generator_rate", "1.0000000001"),
        **{name: resumed(folder, name, *arguments) for name, arguments in APPLIED.items()},
        **{name: resumed(folder, name, "--corruption.sampler", name) for name in SAMPLERS},
        **{name: resumed(folder, name, *arguments) for name, arguments in REFUSED.items()},
        "fewer": resumed(folder, "fewer", "--schedule.steps", "3"),
        "earlier": [["--run_dir", str(folder / "earlier"), "--deepspeed", str(folder / "earlier.json")]],
        "updated": [
            {"copy": str(folder / "earlier"), "to": str(folder / "updated"), "step": RESUMED},
            ["--run_dir", str(folder / "updated"), "--resume", "auto"],
        ],
    }
    for name, wrong in (
        ("init_from", ("--model.init_from", "nowhere")),
        ("odd", ("--deepspeed", str(folder / "odd.json"))),
        ("none", ("--deepspeed", str(folder / "none.json"))),
        ("broken", ("--data.store", str(broken))),
    ):
        orders[f"{name} fails"] = [["--run_dir", str(folder / name), *wrong]]
        again = ("--resume", "auto") if name in ("odd", "broken") else ()
        orders[name] = [["--run_dir", str(folder / name), "--schedule.steps", "1", *again]]
    more = ("--schedule.steps", str(STEPS + 2), "--resume", "auto")
    orders["more"] = [
        {"copy": str(folder / "straight"), "to": str(folder / "more"), "step": STEPS},
        ["--run_dir", str(folder / "more"), *more],
    ]
    found = starts(1, folder, recipe, [order for part in orders.values() for order in part])
    return dict(zip(orders, found, strict=True))


def losses(run_folder: Path) -> list[float]:
    return [row["loss/total"] for row in rows(run_folder)]


def test_unchanged_settings_give_the_same_bits(one_rank: dict[str, dict[str, str]], folder: Path) -> None:
    assert one_rank["same"]["error"] == ""
    assert rows(folder / "same") == rows(folder / "straight")
    assert not (folder / "same/changes.jsonl").exists()


def test_moments_are_kept_where_parameters_are_grouped_otherwise(
    one_rank: dict[str, dict[str, str]], folder: Path
) -> None:
    """A rate of its own for the generator makes new groups; this one is so near 1 that nothing else changes."""
    assert (folder / f"regrouped/checkpoints/step-0000000{RESUMED}/universal").is_dir()
    assert losses(folder / "regrouped") == pytest.approx(losses(folder / "straight"), rel=1e-6)


@pytest.mark.parametrize("name", APPLIED)
def test_a_changed_setting_changes_the_losses_and_is_logged(
    one_rank: dict[str, dict[str, str]], folder: Path, name: str
) -> None:
    assert one_rank[name]["error"] == ""
    straight, changed = losses(folder / "straight"), losses(folder / name)
    assert changed[:RESUMED] == straight[:RESUMED]
    assert changed[-1] != straight[-1]
    line = f"changed at step {RESUMED} from "
    assert line in one_rank[name]["printed"]
    assert line in (folder / name / "log.txt").read_text()
    listed = [json.loads(text) for text in (folder / name / "changes.jsonl").read_text().splitlines()]
    assert {row["step"] for row in listed} == {RESUMED}


def test_a_run_of_an_earlier_release_resumes_with_the_shipped_deepspeed_json_and_says_what_changed(
    one_rank: dict[str, dict[str, str]], folder: Path
) -> None:
    assert one_rank["updated"]["error"] == ""
    for line in (
        f"optimizer.params.fused changed at step {RESUMED} from unset to true",
        f"zero_optimization.reduce_bucket_size changed at step {RESUMED} from 500000000 to auto",
    ):
        assert f"DeepSpeed JSON: {line}" in one_rank["updated"]["printed"]
    earlier, updated = losses(folder / "earlier"), losses(folder / "updated")
    assert updated[:RESUMED] == earlier[:RESUMED]
    assert updated == pytest.approx(earlier, rel=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_sampler_goes_on_from_the_networks_and_says_what_becomes_of_the_head(
    one_rank: dict[str, dict[str, str]], folder: Path, name: str
) -> None:
    assert one_rank[name]["error"] == ""
    assert SAMPLERS[name] in one_rank[name]["printed"]
    straight, changed = rows(folder / "straight"), rows(folder / name)
    assert changed[RESUMED]["loss/generator"] == straight[RESUMED]["loss/generator"]
    assert changed[RESUMED]["loss/sampler"] != straight[RESUMED]["loss/sampler"]
    # The networks of every checkpoint can be exported; a probe needs the head, which an older one has not.
    folders = RunFolder(folder / name)
    of_run = recipe_of_run(folders.recipe)
    load_module(folders, of_run, f"step-0000000{STEPS}")
    load_module(folders, of_run, f"step-0000000{RESUMED}", networks_only=True)
    with pytest.raises(UserError, match="was saved before the run was resumed with another sampler"):
        load_module(folders, of_run, f"step-0000000{RESUMED}")


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_change_is_refused_and_the_run_stays_as_it_is(
    one_rank: dict[str, dict[str, str]], folder: Path, name: str
) -> None:
    assert "cannot resume" in one_rank[name]["error"]
    assert one_rank[name]["printed"] == ""
    for file in ("recipe.yaml", "deepspeed.json", "metrics.jsonl"):
        before = (folder / "straight" / file).read_bytes()
        assert (folder / name / file).read_bytes() == before
    assert not (folder / name / "changes.jsonl").exists()
    load_module(RunFolder(folder / name), recipe_of_run(folder / name / "recipe.yaml"), f"step-0000000{RESUMED}")


def test_more_steps_after_the_end_say_what_the_rate_does(one_rank: dict[str, dict[str, str]], folder: Path) -> None:
    assert f"of step {STEPS + 1} jumps from 0 at the end of {STEPS} steps to" in one_rank["more"]["printed"]
    assert rows(folder / "more")[-1]["step"] == STEPS + 2


def test_fewer_steps_than_the_checkpoint_has_are_a_finished_run_for_all_that_decide(
    one_rank: dict[str, dict[str, str]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = one_rank["fewer"]["printed"]
    assert f"is finished at step {RESUMED}; nothing to do, since only 3 steps are asked for" in printed
    assert electra_scale(["status", str(folder / "fewer")]) == 0
    assert f"finished at step {RESUMED} of {RESUMED}" in capsys.readouterr().out
    assert decide(folder / "fewer", "1", 0, 3).action == "finished"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("init_from", "nowhere"),
        ("odd", "DeepSpeed refuses"),
        ("none", 'there is no section optimizer; add {"type": "AdamW"'),
        ("broken", ".arrow"),
    ],
)
def test_a_start_that_failed_is_not_in_the_way_of_the_corrected_command(
    one_rank: dict[str, dict[str, str]], folder: Path, name: str, words: str
) -> None:
    assert words in one_rank[f"{name} fails"]["error"]
    assert one_rank[name]["error"] == ""
    assert [row["step"] for row in rows(folder / name)] == [1]


def test_changes_hold_on_several_ranks_and_on_another_number_of_them(folder: Path, recipe: Path) -> None:
    """Through DeepSpeed's own checkpoint, through new groups and through the conversion for one rank."""
    two = folder / "two"
    two.mkdir()
    orders = [
        ["--run_dir", str(two / "straight")],
        *resumed(two, "same"),
        *resumed(two, "regrouped", "--optimizer.generator_rate", "1.0000000001"),
        *resumed(two, "changed", "--optimizer.weight_decay", "0.5", "--optimizer.clip", "0.01"),
    ]
    assert [found["error"] for found in starts(2, two, recipe, orders)] == [""] * 4
    assert rows(two / "same") == rows(two / "straight")
    assert losses(two / "regrouped") == pytest.approx(losses(two / "straight"), rel=1e-6)
    changed = losses(two / "changed")
    assert abs(changed[-1] / losses(two / "straight")[-1] - 1) > 1e-4
    arguments = ("--optimizer.weight_decay", "0.5", "--optimizer.clip", "0.01")
    (found,) = starts(1, two, recipe, resumed(two, "one", *arguments))
    assert "is converted for 1" in found["printed"]
    assert losses(two / "one") == pytest.approx(changed, rel=1e-5)
