"""A range is read by what the answer says of itself, from servers that answer ranges in ways of their own."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.places.s3 import PART_BYTES, S3Place
from tests.support.fixtures.s3 import use_environment

DATA = bytes(range(256)) * 70_000  # more than one range of a fetch
Way = Literal[
    "standard", "200 with header", "200 without header", "206 without header", "whole", "capped", "other", "odd"
]


class Server:
    """Serves one object, and answers ranges in the way that a test asks for."""

    def __init__(self) -> None:
        self.way: Way = "standard"
        self.requests = 0
        ours = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(200, len(DATA), None)

            def do_GET(self) -> None:
                ours.requests += 1
                found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
                begin, end = (int(found[1]), min(int(found[2]) + 1, len(DATA))) if found else (0, len(DATA))
                status, told = 206, True
                if begin >= len(DATA) and ours.way != "whole":
                    self.answer(416, 0, None)
                    return
                if ours.way == "whole":
                    begin, end, status, told = 0, len(DATA), 200, False
                elif ours.way in ("200 with header", "200 without header"):
                    status, told = 200, ours.way == "200 with header"
                elif ours.way == "206 without header":
                    told = False
                elif ours.way == "capped":
                    end = min(end, begin + 5_000_000)
                elif ours.way == "other":
                    begin = min(begin + 10, end)
                elif ours.way == "odd":
                    end, status, told = max(begin, end - 10), 200, False
                self.answer(status, end - begin, f"bytes {begin}-{end - 1}/{len(DATA)}" if told else None)
                self.wfile.write(DATA[begin:end])

            def answer(self, status: int, length: int, content_range: str | None) -> None:
                self.send_response_only(status)
                self.send_header("Content-Length", str(length))
                self.send_header("ETag", '"one"')
                if content_range:
                    self.send_header("Content-Range", content_range)
                self.end_headers()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    use_environment(
        monkeypatch,
        {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.http.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": "/dev/null",
            "ELECTRA_SCALE_S3_ATTEMPTS": "2",
        },
    )
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize(
    "way", ["standard", "200 with header", "200 without header", "206 without header", "whole", "capped"]
)
def test_a_range_is_read_right_however_it_is_answered(server: Server, way: Way, tmp_path: Path) -> None:
    server.way = way
    place = open_place("s3://bucket/prefix")
    assert isinstance(place, S3Place)
    target = tmp_path / "a"
    target.write_bytes(b"")
    place.fetch("a", target)
    assert target.read_bytes() == DATA
    place.fetch("a", target, 1000)
    assert target.read_bytes() == DATA[:1000]
    size = len(DATA)
    for begin, end in (
        (0, 10),
        (5, 25),
        (PART_BYTES, PART_BYTES + 9),
        (size - 3, size + 9),
        (size, size + 9),
        (0, size),
    ):
        assert place.read_range("a", begin, end) == DATA[begin:end]
    assert place.read_range("a", size + 5, size + 9) == b""


@pytest.mark.parametrize("way", ["other", "odd"])
def test_an_answer_that_cannot_be_understood_is_one_line(server: Server, way: Way) -> None:
    server.way = way
    with pytest.raises(UserError, match=r"s3://bucket/a at .*: asked for bytes 100 to 199, the server sends others"):
        open_place("s3://bucket").read_range("a", 100, 200)
