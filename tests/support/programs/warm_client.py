"""Stands for ``python`` or ``electra-scale`` in a shell: has the warm process of the tests run the command.

What the shell gives it (arguments, variables, folder, the three standard files, signals) is handed on, and the exit
code handed back. It imports next to nothing itself, so that a command begins at once.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import sys


def main(path: str, module: str, arguments: list[str]) -> int:
    """The exit code of ``python -m module arguments``; with module ``-``, of the program on stdin."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asking.connect(path)
    order = {"module": module, "arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    files = array.array("i", [0, 1, 2])
    asking.sendmsg([json.dumps(order).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    pid = int(asking.recv(100))

    def hand_on(number: int, _frame: object) -> None:
        os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, hand_on)
    code = int(asking.recv(100))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
