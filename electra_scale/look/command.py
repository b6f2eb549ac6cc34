"""The command ``electra-scale look``: opens a model and serves the page until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import errno
import socket

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra

HOST = "127.0.0.1"
"""The one address that is listened at: nobody else on the network gets to the page."""

_PORT = 8613


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "model", help="run folder, folder that export wrote, or another model of ELECTRA as transformers saves it"
    )
    parser.add_argument("--step", type=int, help="checkpoint of the run; the newest if not given")
    parser.add_argument(
        "--port", type=int, default=_PORT, help=f"port of the page on this machine (default {_PORT}; 0: any free one)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run_look(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C. Raises UserError for a port that can't be had or a model that can't be opened."""
    with needs_extra("look", "fastapi and uvicorn", "electra-scale look"):
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    # Before the model is opened, which may take a while.
    with contextlib.closing(bound(options.port)) as listening:
        from electra_scale.inside.opening import open_named
        from electra_scale.look.server import page_of, serve

        inside = open_named(options.model, options.step)
        url = f"http://{HOST}:{listening.getsockname()[1]}/"
        about = inside.about
        where = about.name if about.step is None else f"{about.name}, step {about.step}"
        for line in (f"looking inside {where}", *about.notes, f"page: {url} (Ctrl-C ends it)"):
            print(line, flush=True)
        serve(page_of(inside), listening, url if options.open else None)
    return 0


def bound(port: int) -> socket.socket:
    """A socket that has the port, 0 for any free one. Raises UserError if it can't be had."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; it must lie between 0 and 65535")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A port that was listened at a minute ago is free, though the system still waits for late packets.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        # Another command may have bound it, too, as long as nobody listens.
        listening.listen()
    except OSError as error:
        listening.close()
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise UserError(
            f"port {port} of {HOST} {reason}; choose another one with --port, or any free one with --port 0"
        ) from error
    return listening
