"""What the command needs before it opens a model, and what it says if that is missing."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from electra_scale.cli import main
from electra_scale.look.command import bound


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["look", "runs/none"]) == 2
    line = capfd.readouterr().err
    assert "pip install 'electra-scale[look]'" in line
    assert line.count("\n") == 1


def test_port_0_is_a_free_one_on_loopback_and_a_port_just_left_is_free() -> None:
    with bound(0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        with socket.create_connection((host, port)) as client:
            served, _ = listening.accept()
            served.close()
            assert client.recv(1) == b""
    bound(port).close()


def test_help_needs_neither_torch_nor_a_server() -> None:
    program = "import sys; from electra_scale.cli import main\ntry: main(['look', '--help'])\nexcept SystemExit: pass\n"
    program += "print([name for name in ('torch', 'fastapi', 'uvicorn', 'transformers') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
