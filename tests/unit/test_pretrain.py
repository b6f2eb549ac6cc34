"""What the program leaves to whoever called it."""

from __future__ import annotations

import gc

from electra_scale import pretrain


def test_a_refused_start_turns_the_collector_of_garbage_on_again() -> None:
    assert pretrain.main(["--config", "nowhere.yaml"]) == 2
    assert gc.isenabled()
