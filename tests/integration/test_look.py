"""``electra-scale look`` as a user starts and ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from electra_scale.cli import main
from electra_scale.look.command import bound
from tests.support.fixtures.runs import environment
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

LOOK = [sys.executable, "-m", "electra_scale.cli", "look"]


def test_a_run_is_served_on_loopback_until_ctrl_c_which_frees_the_port(finished_run: Path, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $1 > {tmp_path}/opened\n")
    browser.chmod(0o755)
    process = subprocess.Popen(
        [*LOOK, str(finished_run), "--step", "2", "--port", "0", "--open"],
        cwd=tmp_path,
        env=environment() | {"BROWSER": str(browser)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[0] == f"looking inside {finished_run}, step 2\n"
        found = re.fullmatch(r"page: (http://127\.0\.0\.1:(\d+)/) \(Ctrl-C ends it\)\n", lines[1])
        assert found, lines
        url, port = found[1], int(found[2])
        body = json.dumps({"text": "Return the value of the file.", "masked": [2]}).encode()
        request = urllib.request.Request(f"{url}api/look", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            looked = json.load(answer)
        assert looked["positions"][0]["index"] == 2
        assert all(0 < token["score"] < 1 for token in looked["tokens"])
        with socket.socket() as elsewhere, pytest.raises(OSError, match="refused"):
            # Another address of this machine.
            elsewhere.connect(("127.0.0.2", port))
        opened = tmp_path / "opened"
        wait_for(lambda: opened.is_file() and opened.read_text() == f"{url}\n", process)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("electra-scale: interrupted")
    assert "Traceback" not in err
    bound(port).close()


def test_what_cannot_be_served_is_one_line(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with bound(0) as taken:
        port = taken.getsockname()[1]
        for arguments, line in (
            ([finished_run, "--port", port], f"port {port} of 127.0.0.1 is taken; choose another one with --port"),
            ([finished_run, "--port", 65536], "--port is 65536; it must lie between 0 and 65535"),
            ([finished_run, "--port", 0, "--step", 3], "has no checkpoint step-00000003"),
            ([tmp_path, "--port", 0], "holds no model"),
        ):
            assert main(["look", *map(str, arguments)]) == 2
            shown = capfd.readouterr()
            assert line in shown.err
            assert shown.err.count("\n") == 1
            assert shown.out == ""
