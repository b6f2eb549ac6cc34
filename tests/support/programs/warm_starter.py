"""A process that has imported what a training process imports, and forks one after another of them.

``python -m tests.support.programs.warm_starter SOCKET [PACKAGE ...]`` imports the packages too, and takes orders from
an inherited socket: a line of JSON with ``module`` (``-``: the program on stdin), ``arguments``, ``ranks`` (null: a
plain process), ``port``, ``folder`` and ``environment``, together with the files for stdin, stdout, stderr and the exit
code. The answer is the process id; the exit code follows when it has ended. A fresh interpreter imports torch and
DeepSpeed for longer than most of the tests' runs train.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any, NoReturn

import deepspeed.ops

# All that ranks import; torch's compiler takes longest, which those have that compile or recompute activations. Modules
# that are run as programs are not here: each process runs them anew.
_IMPORTED = (
    "boto3",
    "electra_scale.train.loop",
    # After it, since it keeps torch's compiler out of it.
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "scipy.sparse.linalg",
    "tensorboard.summary.writer.event_file_writer",
    "torch._dynamo",
    "torch.utils.tensorboard",
)


def _run(module: str, arguments: list[str]) -> NoReturn:
    """What ``python -m module arguments`` does, to the end of the interpreter."""
    sys.argv = [module, *arguments]
    sys.path[0] = os.getcwd()
    if module == "-":
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
        sys.exit(0)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


def _start_ranks(order: dict[str, Any]) -> NoReturn:
    """Fork the ranks and wait for them; like a launcher, end all when one fails, and exit with its code."""
    number = order["ranks"]
    shared = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(order["port"])}
    running = set()
    for rank in range(number):
        child = os.fork()
        if child == 0:
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
            _run(order["module"], order["arguments"])
        running.add(child)
    failed = 0
    while running:
        child, status = os.wait()
        running.discard(child)
        if status and not failed:
            failed = os.waitstatus_to_exitcode(status)
            for other in running:
                os.kill(other, signal.SIGKILL)
    os._exit(failed if failed >= 0 else 1)


def _become(order: dict[str, Any], files: list[int]) -> NoReturn:
    """Turn a fresh fork into the process of an order."""
    os.setsid()
    # Whatever the tests themselves were started with.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    if order["ranks"] is None:
        _run(order["module"], order["arguments"])
    _start_ranks(order)


def main(orders: socket.socket, more: list[str]) -> None:
    """Serve until the other side closes the socket."""
    for name in (*_IMPORTED, *more):
        importlib.import_module(name)
    # DeepSpeed finds out once a process what it could compile, with a compiler.
    _ = deepspeed.ops.__compatible_ops__
    gc.collect()
    gc.freeze()
    ended: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([orders, *ended], [], [])[0]:
            if ready is not orders:
                pid, code_to = ended.pop(ready)
                _, status = os.waitpid(pid, 0)
                os.close(ready)
                with os.fdopen(code_to, "w") as file:
                    file.write(str(os.waitstatus_to_exitcode(status)))
                continue
            text, files, _, _ = socket.recv_fds(orders, 1 << 20, 4)
            if not text:
                return
            *standard, code_to = files
            pid = os.fork()
            if pid == 0:
                # An end of a pipe that stayed open here would keep its reader waiting.
                orders.close()
                for other in (code_to, *ended, *(to for _, to in ended.values())):
                    os.close(other)
                _become(json.loads(text), standard)
            for file in standard:
                os.close(file)
            ended[os.pidfd_open(pid)] = (pid, code_to)
            orders.send(str(pid).encode())


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
