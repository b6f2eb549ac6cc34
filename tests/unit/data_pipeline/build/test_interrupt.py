"""Ctrl-C in a build: one line, nothing left running, and the same command continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fixtures.runs import ROOT
from tests.support.waiting import wait_for


def shares(group: int) -> bool:
    """Whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["imports", "work"])
def test_an_interrupted_build_says_so_in_one_line_and_continues(moment: str, tmp_path: Path, corpus: Path) -> None:
    sources = f"[{{kind: jsonl, paths: [{corpus / 'docs.jsonl'}]}}]"
    text = f"out: store\nsources: {sources}\ntokenizer: {{vocab_size: 800}}\ntask_bytes: 100000\nworkers: 2\n"
    (tmp_path / "build.yaml").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "data_pipeline", "build", "--config", "build.yaml"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if moment == "work":
        wait_for(lambda: (tmp_path / "store").exists(), process, 60)
        time.sleep(0.4)
    else:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_for(lambda: "pyarrow" in maps.read_text(), process, 60)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    # Python itself ends so when a module that it imports was interrupted.
    assert process.returncode in (130, -signal.SIGINT), err
    assert err.splitlines()[-1] == "electra-data: interrupted; run the same command again to continue"
    assert "Traceback" not in out + err
    wait_for(lambda: not shares(process.pid), seconds=20)
    if moment == "imports":
        return
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "store/manifest.json").exists()
