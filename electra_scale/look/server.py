"""The page and its two questions, over HTTP on loopback: what is looked into, and what it does with a text."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict

from data_pipeline.errors import UserError
from electra_scale.inside.inside import Inside

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names under which a browser of this machine reaches the page. One that was led here by another name, which its owner
has pointed at this address, is refused: it would run that owner's script as if it were ours."""

_MOST_BYTES = 1 << 20
"""Of a question; a text of a model's length is far shorter."""

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/look.css": ("look.css", "text/css; charset=utf-8"),
    "/look.js": ("look.js", "text/javascript; charset=utf-8"),
}

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Question(BaseModel):
    """A text with the positions that are masked, or the key that chooses them, and the key of the draws."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    masked: list[int] = []
    mask_key: int | None = None
    key: int = 0


def page_of(inside: Inside) -> FastAPI:
    """The page as an application. It keeps nothing between two questions, so any number of tabs may ask."""
    app = FastAPI(title="electra-scale look", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(RequestValidationError, _malformed)
    folder = files("electra_scale.look") / "page"
    for path, (name, kind) in _FILES.items():
        app.add_api_route(path, _static((folder / name).read_bytes(), kind), methods=["GET"])

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return asdict(inside.about)

    @app.post("/api/look")
    def look(question: Question) -> dict[str, Any]:
        """What comes out, or the line that says why nothing does."""
        try:
            masked = question.masked
            if question.mask_key is not None:
                masked = inside.random_masks(question.text, question.mask_key)
            return asdict(inside.look(question.text, masked, question.key))
        except UserError as error:
            return {"error": str(error)}

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = _refusal(request)
        response = await answer(request) if refused is None else refused
        response.headers.update(_HEADERS)
        return response

    return app


def _static(content: bytes, kind: str) -> Callable[[], Response]:
    def answer() -> Response:
        return Response(content, headers={"Content-Type": kind})

    return answer


def _malformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"])
    return JSONResponse({"error": f"the question is malformed: {where}: {found['msg']}"}, 422)


def _refusal(request: Request) -> Response | None:
    """Why a request is not answered: it comes from a page of somebody else's, or is none that ours sends."""
    host = request.headers.get("host", "")
    if _name(host) not in LOOPBACK:
        return PlainTextResponse(f"this page is at {' or '.join(LOOPBACK)} only\n", 403)
    if request.headers.get("origin") not in (None, f"http://{host}"):
        return PlainTextResponse("only the page itself may ask\n", 403)
    if request.method == "POST":
        # A form of another page can send text, but not JSON without being asked for its origin first.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return PlainTextResponse("questions are JSON\n", 415)
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return PlainTextResponse("a question says how long it is\n", 411)
        if int(length) > _MOST_BYTES:
            return JSONResponse({"error": "the text is longer than a model takes; shorten it"}, 413)
    return None


def _name(host: str) -> str:
    """The name of a Host header without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def serve(app: FastAPI, listening: socket.socket, open_at: str | None = None) -> None:
    """Answer until Ctrl-C, which is raised again here; with ``open_at``, open that address in the browser."""
    if open_at is not None:
        # Programs that open a browser may take their time.
        threading.Thread(target=webbrowser.open, args=(open_at,), daemon=True).start()
    uvicorn.Server(configured(app)).run(sockets=[listening])


def configured(app: FastAPI) -> uvicorn.Config:
    """How it is served: no line for each question, and an end within a second."""
    return uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
