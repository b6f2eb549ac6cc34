"""Ctrl-C in a training that a command started: it saves, nothing is left running, and one line says how to go on."""

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

COMMAND = """
import sys
from pathlib import Path
from data_pipeline.command_line import run_command
from electra_scale.commands.launched_training import run_training

def command():
    print("asked:", run_training(sys.argv[2:], Path(sys.argv[1])), flush=True)
    raise KeyboardInterrupt

sys.exit(run_command("electra-scale", command))
"""
LAUNCHER = """
import os, subprocess, sys, time
rank = "import os, time; open('rank', 'w').write(str(os.getpid()))\\nwhile not os.path.exists('{}'): time.sleep(0.05)"
subprocess.run([sys.executable, "-c", rank.format(sys.argv[1])])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "signals"), [("stop", 1), ("another", 2)], ids=["once", "twice"])
def test_an_interrupt_asks_the_training_to_stop_and_a_second_one_ends_it(
    stop: str, signals: int, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "stop", sys.executable, "-c", LAUNCHER, stop],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: (tmp_path / "rank").exists() and bool((tmp_path / "rank").read_text()), process, 120)
    rank = int((tmp_path / "rank").read_text())
    for _ in range(signals):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "asked: True" in out
    assert "the training saves and stops after this step" in out
    assert err == "electra-scale: interrupted; run the same command again\n"
    wait_for(lambda: not Path(f"/proc/{rank}").exists(), seconds=10)
    assert not (tmp_path / "stop").exists()
