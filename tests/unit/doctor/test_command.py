"""What the command cannot do is refused before anything is examined."""

from __future__ import annotations

import pytest

from electra_scale.cli import main


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300", "86401"])
def test_a_wait_that_no_clock_can_measure_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"--wait={seconds}"]) == 2
    assert f"--wait is {float(seconds):g}; give a number of seconds above 0" in capsys.readouterr().err
