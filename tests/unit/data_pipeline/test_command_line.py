"""How a command ends, whichever it is: errors, Ctrl-C, readers that have seen enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.fixtures.runs import ROOT

COMMANDS = {
    "prints": "for number in range(50_000): print('line', number)",
    "fails": "raise UserError('no such thing')",
    "waits": "print('ready', flush=True); time.sleep(60)",
    # Comes back to Python after minutes.
    "library": "print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 100_000_000)",
    "stubborn": "print('ready', flush=True)\n  try: time.sleep(60)\n  finally: time.sleep(60)",
    # As an extension module does that tries an import and goes on without it.
    "swallows": "print('ready', flush=True)\n  try: time.sleep(60)\n  except BaseException: pass",
    # As defining a class does.
    "another": "print('ready', flush=True)\n  try: time.sleep(60)\n  except BaseException: raise RuntimeError",
    # As importing does, where Python prints a traceback and goes on.
    "finaliser": "print('ready', flush=True)\n  class A:\n    def __del__(self): time.sleep(60)\n  A()",
}


def program(command: str) -> list[str]:
    text = (
        "import hashlib, sys, time\n"
        "from data_pipeline.command_line import run_command\n"
        "from data_pipeline.errors import UserError\n"
        f"def command():\n  {COMMANDS[command]}\n  return 3\n"
        "sys.exit(run_command('tool', command))\n"
    )
    return [sys.executable, "-c", text]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def in_shell(command: str, redirection: str) -> subprocess.CompletedProcess[str]:
    line = f'"$@" {redirection}; echo "code ${{PIPESTATUS[0]}}"'
    return subprocess.run(
        ["bash", "-c", line, "bash", *program(command)], env=environment(), capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        ("| head -1", 3, ""),
        ("| true", 3, ""),
        (">&-", 3, ""),
        ("> /dev/full", 3, "tool: error: the output could not be written (No space left on device)"),
        ("> /dev/null 2>&-", 3, ""),
    ],
)
def test_an_output_that_nobody_reads_is_no_error_and_one_on_a_full_disk_is(
    redirection: str, code: int, error: str
) -> None:
    result = in_shell("prints", redirection)
    assert result.stdout.splitlines()[-1] == f"code {code}"
    assert result.stderr.startswith(error)
    assert result.stderr.count("\n") == bool(error)


def test_a_user_error_is_one_line_and_code_2() -> None:
    result = subprocess.run(program("fails"), env=environment(), capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "tool: error: no such thing\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "interrupts", "least"),
    [
        ("waits", 1, 0.0),
        ("library", 1, 2.5),
        ("library", 2, 0.0),
        ("stubborn", 1, 2.5),
        ("swallows", 1, 0.0),
        ("another", 1, 0.0),
        ("finaliser", 1, 0.0),
    ],
)
def test_an_interrupt_is_one_line_and_code_130_within_seconds(command: str, interrupts: int, least: float) -> None:
    process = subprocess.Popen(
        program(command), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for number in range(interrupts):
        time.sleep(0.3 * number)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "tool: interrupted; run the same command again\n"
    assert least <= time.monotonic() - began < 15
