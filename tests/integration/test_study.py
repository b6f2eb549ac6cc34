"""The study through the real pipeline, at a size of seconds: in the background, into a table, and only once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.fixtures.runs import RECIPE, rows, run

pytestmark = pytest.mark.slow


def recipes(folder: Path) -> Path:
    """The tests' small recipe as base, and two arms."""
    folder.mkdir()
    base = json.loads(json.dumps(RECIPE))
    base["corruption"] = {"sampler": "electra", "head": {"width": 16}}
    base["logging"] |= {"evaluate_every": 100}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    for arm, sampler in (("electra", "electra"), ("hp_loss_own", "hp_loss")):
        (folder / f"{arm}.yaml").write_text(yaml.safe_dump({"corruption": {"sampler": sampler}}))
    return folder


def cells(text: str, heading: str) -> dict[str, dict[str, str]]:
    """A table of study.md: rows by name, and in each the cells by column."""
    lines = [
        line.strip("| ").split(" | ") for line in text.split(heading)[1].split("## ")[0].splitlines() if "|" in line
    ]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_two_arms_from_a_store_to_the_table(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    out.mkdir()
    (out / "store").symlink_to(store)
    command = [sys.executable, "-m", "benchmarks.study.study", "--out", str(out), "--steps", "12", "--seeds", "0"]
    command += ["--recipes", str(recipes(tmp_path / "recipes")), "--samples", "32"]
    started = run(command, tmp_path)
    found = re.search(r"in the background as process (\d+)", started.stdout)
    assert found is not None, started.stdout + started.stderr
    study = psutil.Process(int(found[1])) if psutil.pid_exists(int(found[1])) else None
    if study is not None:
        try:
            study.wait(200)
        except psutil.TimeoutExpired:
            # It ends its own runs.
            study.terminate()
            raise
    log = (out / "study.log").read_text()
    assert (out / "study.md").is_file(), log
    text = (out / "study.md").read_text()

    warmup = cells(text, "## Generators")["0"]
    assert 0 < float(warmup["held-out loss, nats"]) < 8
    assert 4 < float(warmup["unigram entropy"]) < 7
    arms = cells(text, "## Arms: mean")
    assert list(arms) == ["electra", "hp_loss_own"], log
    for arm in arms.values():
        assert arm["seeds"] == "1"
        assert 0 < float(arm["AUC, common generator"]) < 1
        assert float(arm["variance of L_D, late"]) > 0
        assert 0 < float(arm["calibration error"]) < 1
        assert float(arm["largest w"]) >= 1
    assert float(cells(text, "## Arms against electra")["hp_loss_own"]["variance of L_D, late"]) > 0
    assert (out / "plots/auc.png").is_file()

    # The warm-up is shared, so both arms begin with the same generator on the same masks.
    electra, own = (rows(out / "seed-0" / arm) for arm in ("electra", "hp_loss_own"))
    assert [row["step"] for row in electra] == list(range(1, 13))
    assert electra[0]["gen/cross_entropy"] == own[0]["gen/cross_entropy"]
    assert electra[0]["loss/discriminator"] == own[0]["loss/discriminator"]
    assert electra[-1]["loss/discriminator"] != own[-1]["loss/discriminator"]

    before = {path: path.stat().st_mtime_ns for path in out.glob("seed-0/*/metrics.jsonl")}
    assert len(before) == 3
    again = run([*command, "--foreground"], tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "train" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
