"""Whichever rank fails, and whatever with: one of them says why, and all end with its code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from data_pipeline.errors import OneRankError, OtherRankError, UserError
from electra_scale.train.engine.rendezvous import Launched, Rendezvous
from electra_scale.train.engine.world import LostMain, World
from electra_scale.train.lifecycle import failures as failures_module
from electra_scale.train.lifecycle.failures import Failures, is_lost
from tests.support.fixtures.s3 import free_ports

GLOO = RuntimeError(
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4157\nand frames"
)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Failures]]:
    """Both ranks of a run, in this process."""
    for name in ("_FIRST_RANK_SECONDS", "_REASON_SECONDS"):
        monkeypatch.setattr(failures_module, name, 0.3)
    # No thread may end the tests.
    monkeypatch.setattr(failures_module, "_LOOK_SECONDS", 600.0)
    port = free_ports(1)[0]
    server = Rendezvous(Launched(0, 1, "127.0.0.1", port), 5.0, print)
    made = [Failures(World(rank, 2, torch.device("cpu"), 2, server)) for rank in (0, 1)]
    yield made
    for one in made:
        one._closed.set()


def fault() -> ZeroDivisionError:
    try:
        raise ZeroDivisionError("injected")
    except ZeroDivisionError as error:
        return error


def test_the_first_reason_is_printed_once_and_is_that_of_all(
    ranks: list[Failures], capsys: pytest.CaptureFixture[str]
) -> None:
    failed = ranks[1].settle(fault(), 7)
    assert (failed.rank, failed.code) == (1, 1)
    printed = capsys.readouterr().err
    assert printed.splitlines()[0] == "Traceback (most recent call last):"
    assert printed.endswith(f"electra-scale: error: rank 1 on {failed.host}: ZeroDivisionError: injected\n")
    for error in (GLOO, UserError("another"), OneRankError("another"), OtherRankError("another"), LostMain("gone")):
        ranks[0]._settled = None
        assert ranks[0].settle(error) == failed
    assert ranks[1].settle(GLOO) == failed
    assert capsys.readouterr().err == ""


def test_what_every_rank_meets_is_reported_by_the_first(
    ranks: list[Failures], capsys: pytest.CaptureFixture[str]
) -> None:
    found = [one.settle(UserError("no such store")) for one in ranks]
    assert [each.code for each in found] == [2, 2]
    assert capsys.readouterr().err == "electra-scale: error: no such store\n"


def test_what_another_rank_alone_meets_is_reported_by_it(
    ranks: list[Failures], capsys: pytest.CaptureFixture[str]
) -> None:
    found = ranks[1].settle(UserError("no such store"))
    assert ranks[0].settle(GLOO) == found
    assert capsys.readouterr().err == f"electra-scale: error: rank 1 on {found.host}: no such store\n"


def test_a_rank_that_only_lost_the_others_says_so_in_one_line(
    ranks: list[Failures], capsys: pytest.CaptureFixture[str]
) -> None:
    found = ranks[1].settle(GLOO, 7)
    assert found.code == 1
    assert "lost the other ranks at step 7; the reason is in their output" in found.reason
    assert "Connection closed by peer" in found.reason
    assert capsys.readouterr().err == f"electra-scale: error: {found.sentence()}\n"


def test_a_fault_of_the_program_is_not_taken_for_a_lost_rank() -> None:
    assert is_lost(GLOO)
    assert is_lost(RuntimeError("NCCL error: remote process exited or there was a network error, ncclRemoteError: ..."))
    assert not is_lost(RuntimeError("CUDA out of memory"))
    assert not is_lost(RuntimeError("NCCL error: invalid usage: Duplicate GPU detected: rank 1 and rank 0"))
    assert not is_lost(OSError("Connection closed by peer"))
