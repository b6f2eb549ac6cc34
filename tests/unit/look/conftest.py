"""The page on a port of its own, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from electra_scale.inside.inside import Inside
from electra_scale.look.command import bound
from electra_scale.look.server import configured, page_of
from tests.unit.inside.conftest import SAMPLERS, hard, open_inside

__all__ = ["hard"]


@contextmanager
def serving(inside: Inside) -> Iterator[str]:
    """The address of the page of a model."""
    with bound(0) as listening:
        server = uvicorn.Server(configured(page_of(inside)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def page_of_run() -> Iterator[str]:
    """The address of the page of a run with hp_loss."""
    with serving(open_inside(SAMPLERS["hp_loss"])) as url:
        yield url
