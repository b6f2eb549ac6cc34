"""An output that goes away costs the output, not the work."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fixtures.runs import ROOT

WORK = """
import logging, os, sys, time
from data_pipeline.outputs import guard_outputs, report_lost_outputs
guard_outputs()
logging.basicConfig(stream=sys.stderr)
file = open(sys.argv[1], "w")
report_lost_outputs(lambda line: print(line, file=file, flush=True))
from tqdm import tqdm
bar = tqdm(total=3, file=sys.stderr, mininterval=0)
for number in range(3):
    print("x" * 100_000, number)
    print("line", number, flush=True)
    sys.stdout.writelines(["a line\\n", "another\\n"])
    logging.error("line %d", number)
    os.write(2, b"from C")
    bar.update()
    bar.write("a line")
    time.sleep(0.05)
print("done", file=file, flush=True)
"""
"""Prints in every way that the programs and their libraries do, with the note of the work in a file."""


def run(redirection: str, folder: Path) -> tuple[int, str, list[str]]:
    """Exit code, stderr and the lines of the file, of the work started by a shell with this redirection."""
    result = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" -c "$1" note.txt {redirection}', sys.executable, WORK],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return result.returncode, result.stderr, (folder / "note.txt").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "lost"),
    [
        ("", []),
        ("| head -c 10", ["stdout can no longer be written (Broken pipe)"]),
        ("2>&1 | head -c 10", ["stderr can no", "stdout can no"]),
        ("> /dev/full", ["stdout can no longer be written (No space left on device)"]),
        ("2> /dev/full", ["stderr can no longer be written (No space left on device)"]),
        (">&-", []),
        ("2>&-", []),
        ("<&- >&- 2>&-", []),
    ],
)
def test_work_ends_well_whatever_becomes_of_its_output(redirection: str, lost: list[str], tmp_path: Path) -> None:
    code, err, note = run(redirection, tmp_path)
    assert code == 0, err
    # What is printed never lands in a file that was opened later.
    assert note[-1] == "done", note
    assert len(note) == len(lost) + 1
    assert all(line.startswith(start) for line, start in zip(sorted(note[:-1]), lost, strict=True)), note
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_work_ends_well_when_its_terminal_is_closed(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, "note.txt"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.read(ours, 10)
    os.close(ours)
    assert process.wait(60) == 0
    note = (tmp_path / "note.txt").read_text().splitlines()
    assert note[-1] == "done"
    assert any("Input/output error" in line for line in note)


def test_a_character_that_the_output_cannot_show_is_escaped(tmp_path: Path) -> None:
    code = "from data_pipeline.outputs import guard_outputs; guard_outputs(); print('r\\u00fcn \\u4e2d')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "r\\xfcn \\u4e2d\n"
