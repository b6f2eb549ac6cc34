"""A launcher that stays: it has imported everything once and forks the ranks of one attempt after the other.

``python -m tests.torture.launcher`` reads one attempt a line from stdin (JSON: ``ranks``, ``port``, ``output``,
``arguments``), answers with the process ids of its ranks and, when all are gone, with its exit code. Like any launcher
it ends every rank when one fails. A fresh interpreter for each rank would be most of a short attempt's time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn, TextIO

from tests.support.fixtures.runs import ROOT, end, environment
from tests.support.fixtures.s3 import free_ports

# What a rank imports in its attempt; DeepSpeed's own optimizers bring in torch's compiler, which takes longest.
_IMPORTED = (
    "boto3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "electra_scale.pretrain",
    "electra_scale.train.loop",
    "torch._inductor.compile_fx",
)


class Attempt:
    """The ranks of one attempt, in a process group of their own, and the process that reads what they print."""

    def __init__(self, launcher: Launcher, pids: list[int], reader: int, output: Path) -> None:
        self.launcher = launcher
        self.pids = pids
        self.reader = reader
        self.output = output
        self.code: int | None = None

    def output_text(self) -> str:
        """All that its ranks have printed so far."""
        return self.output.read_text(errors="replace")

    def over(self, seconds: float = 0.0) -> bool:
        """Whether all ranks are gone, after waiting for that so long."""
        if self.code is None and select.select([self.launcher.answers], [], [], seconds)[0]:
            self.code = int(self.launcher.answer()["code"])
        return self.code is not None

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit code: of the first rank that failed, negative for a signal."""
        assert self.over(seconds), f"the ranks do not end:\n{self.output_text()}"
        assert self.code is not None
        return self.code

    def kill_one(self, rank: int, number: signal.Signals = signal.SIGKILL) -> None:
        # It may have ended by itself.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[rank], number)

    def interrupt_all(self) -> None:
        """What Ctrl-C in their terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pids[0], signal.SIGINT)

    def lose_output(self) -> None:
        """Nobody reads what the ranks print from now on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.reader, signal.SIGKILL)

    def kill_all(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pids[0], signal.SIGKILL)


class Launcher:
    """The process, from outside. One attempt at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.launcher"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.answers = self.process.stdout

    def start(self, ranks: int, output: Path, *arguments: str | Path) -> Attempt:
        """Begin an attempt of ``electra_scale.pretrain``; its ranks print into ``output``."""
        output.touch()
        attempt = {
            "ranks": ranks,
            "port": free_ports(1)[0],
            "output": str(output),
            "arguments": [str(argument) for argument in arguments],
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(attempt) + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        return Attempt(self, answer["pids"], answer["reader"], output)

    def answer(self) -> dict[str, Any]:
        line = self.answers.readline()
        assert line, "the launcher is gone"
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it and whatever it has started."""
        end(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def run_attempt(answers: TextIO, ranks: int, port: int, output: str, arguments: list[str]) -> None:
    """Fork the ranks, wait for them, answer."""
    shared = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    receive, send = os.pipe()
    reader = os.fork()
    if reader == 0:
        os.close(send)
        _be_reader(receive, output)
    os.close(receive)
    pids: list[int] = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, pids[0] if pids else 0)
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
            _be_rank(send, arguments)
        # On both sides, so that neither has to wait for the other.
        os.setpgid(pid, pids[0] if pids else pid)
        pids.append(pid)
    os.close(send)
    _answer(answers, pids=pids, reader=reader)
    left, code = {*pids, reader}, 0
    while left:
        pid, status = os.waitpid(-1, 0)
        left.discard(pid)
        if status and not code and pid != reader:
            code = os.waitstatus_to_exitcode(status)
            for other in left - {reader}:
                os.kill(other, signal.SIGKILL)
    _answer(answers, code=code)


def _be_reader(receive: int, output: str) -> NoReturn:
    """Copy what the ranks print into a file."""
    with open(output, "ab", buffering=0) as file:
        while text := os.read(receive, 1 << 16):
            file.write(text)
    os._exit(0)


def _be_rank(send: int, arguments: list[str]) -> NoReturn:
    """Run one rank and end its process, whatever happens."""
    from electra_scale import pretrain

    code = 1
    try:
        # Whatever the tests themselves were started with.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(send, 1)
        os.dup2(send, 2)
        os.close(send)
        code = pretrain.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _answer(answers: TextIO, **content: Any) -> None:
    print(json.dumps(content), file=answers, flush=True)


def main() -> None:
    # What is imported may print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        run_attempt(answers, **json.loads(line))


if __name__ == "__main__":
    main()
