"""A proxy in front of a real S3 server that breaks requests as it is told to, the same ones for the same seed.

The Host header goes on as the client signed it, so the server accepts the signature.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pytest

from tests.s3 import S3Server, use_environment

Fault = Literal[
    "slow_down",  # 503 SlowDown, nothing forwarded
    "lost",  # forwarded, but the connection ends without an answer
    "refuse",  # the connection is reset, nothing forwarded
    "delay",  # forwarded after `delay_seconds`
    "cut",  # half of the answer's body, then the connection ends
    "flip_up",  # one bit of the request's body is flipped
    "flip_down",  # one bit of the answer's body is flipped
]

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}
_CHUNK = 1 << 16


class FaultyProxy:
    """Forwards to ``upstream`` (``host:port``) and breaks every n-th request that a fault can befall.

    ``every`` maps a fault to n; the seed shifts which of the n it is. ``at_most`` ends a fault after so many times,
    ``only(method, path)`` limits what is broken, ``drop_headers`` (lower case) do not go on. ``injected`` counts
    what was done, ``paths`` holds method and path of what came. All may be changed while it runs.
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.every: dict[Fault, int] = {}
        self.at_most: dict[Fault, int] = {}
        self.only: Callable[[str, str], bool] = lambda method, path: True
        self.drop_headers: set[str] = set()
        self.delay_seconds = 0.2
        self.upload_bytes_per_second: float | None = None
        self.injected: Counter[str] = Counter()
        self.paths: list[str] = []
        self.url = ""
        self.environment: dict[str, str] = {}
        self.seed = seed
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._upstream = upstream
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, after :meth:`stop` on the same port as before."""
        proxy = self

        class Handler(_Handler):
            faults = proxy
            upstream = proxy._upstream

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections; those that are open get their answer."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def due(self, fault: Fault, method: str, path: str) -> bool:
        """Whether this request, which the fault can befall, is one of those to break; counts it if so."""
        with self._lock:
            n = self.every.get(fault)
            if n is None or not self.only(method, path) or self.injected[fault] >= self.at_most.get(fault, 1 << 30):
                return False
            number = self._seen[fault]
            self._seen[fault] += 1
            if number % n != random.Random(f"{self.seed}/{fault}").randrange(n):
                return False
            self.injected[fault] += 1
            return True

    def came(self, method: str, path: str) -> None:
        with self._lock:
            self.paths.append(f"{method} {path}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    faults: FaultyProxy
    upstream: str

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _forward(self) -> None:
        faults, method, path = self.faults, self.command, self.path
        faults.came(method, path)
        if faults.due("refuse", method, path):
            self._reset()
            return
        length = int(self.headers.get("Content-Length") or 0)
        if faults.due("slow_down", method, path):
            self.rfile.read(length)
            self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
            return
        if faults.due("delay", method, path):
            time.sleep(faults.delay_seconds)
        back = HTTPConnection(self.upstream, timeout=60)
        try:
            back.putrequest(method, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if key.lower() not in _HOP | faults.drop_headers:
                    back.putheader(key, value)
            back.endheaders()
            self._send_body(back, length)
            answer = back.getresponse()
            body = answer.read()
        except (OSError, HTTPException):
            self._reset()
            return
        finally:
            back.close()
        if faults.due("lost", method, path):
            self._reset()
            return
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP | {"content-length"}]
        if method == "HEAD":
            self._answer(answer.status, headers, b"", length=answer.headers.get("Content-Length"))
            return
        cut = method == "GET" and len(body) > 1 and faults.due("cut", method, path)
        if method == "GET" and body and faults.due("flip_down", method, path):
            body = _flipped(body)
        self._answer(answer.status, headers, body, cut=cut)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def _send_body(self, back: HTTPConnection, length: int) -> None:
        flip = length > 0 and self.command == "PUT" and self.faults.due("flip_up", self.command, self.path)
        left = length
        while left:
            data = self.rfile.read(min(_CHUNK, left))
            if not data:
                raise ConnectionError("the client went away")
            left -= len(data)
            back.send(_flipped(data) if flip else data)
            flip = False
            if self.faults.upload_bytes_per_second:
                time.sleep(len(data) / self.faults.upload_bytes_per_second)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def _reset(self) -> None:
        # No lingering: the client sees a reset and not an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.fixture
def faulty_s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy without faults yet; ``url`` is a fresh bucket, and this process's environment leads through the proxy."""
    proxy = FaultyProxy(s3_server.endpoint.removeprefix("http://"))
    proxy.environment = s3_server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}
    proxy.url = f"s3://{s3_server.bucket()}"
    use_environment(monkeypatch, proxy.environment)
    yield proxy
    proxy.stop()
