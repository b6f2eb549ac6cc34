"""The report in a real browser: it opens offline, draws every plot, fits a phone, and follows the reader's colours.

With ``SCREENSHOTS=FOLDER`` the pictures are kept there, and ``REPORT_RUNS=RUN:RUN`` takes them of other runs than the
test's own: so the pictures of docs/report.md were made.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.report.command import write_report
from electra_scale.report.draws import examples_of
from tests.support.fixtures.browser import DESKTOP, PHONE, Visit, visit
from tests.unit.report.conftest import write_scores

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

_TALL = (DESKTOP[0], 1250)
_DRAWN = """[...document.querySelectorAll('figure')].map(figure => {
  const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('path, use')].filter(mark => mark.getBoundingClientRect().height > 0);
  const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
  return [figure.id, box.width, box.height, marks.length, texts.length,
    Math.max(...texts.map(text => text.right)) - document.documentElement.clientWidth];
})"""
_COLOURS = """(() => { const svg = document.querySelector('figure svg'), style = getComputedStyle(document.body);
  return [style.backgroundColor, style.color, getComputedStyle(svg.querySelector('text')).fill]; })()"""


@pytest.fixture(scope="module")
def reported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two networks with scores, whose newest checkpoint and store can be opened."""
    copy = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(finished_run, copy)
    write_scores(copy)
    write_scores(copy, random=True)
    return copy


def check(seen: Visit) -> None:
    """No error, no request, every plot drawn and readable, nothing wider than the screen."""
    assert (seen.errors, seen.requests, seen.overflow()) == ([], [], 0)
    plots = seen.page.evaluate(_DRAWN)
    assert len(plots) > 10
    for name, width, height, marks, texts, beyond in plots:
        assert width > 300, name
        assert height > 60, name
        assert marks > 5, name
        assert texts > 5, name
        assert beyond <= 0, name


def test_the_page_opens_offline_on_a_desk_and_on_a_phone_in_light_and_dark(
    browser: Browser, reported: Path, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("SCREENSHOTS", tmp_path))
    runs = [Path(name) for name in os.environ.get("REPORT_RUNS", str(reported)).split(":")]
    page = write_report(runs, tmp_path / "report.html")
    colours = []
    for name, screen, dark in (("light", _TALL, False), ("dark", _TALL, True), ("phone", PHONE, False)):
        with visit(browser, page, screen, dark, scale=2 if screen == PHONE else 1) as seen:
            colours.append(seen.page.evaluate(_COLOURS))
            check(seen)
            if name == "phone":
                seen.page.evaluate("document.querySelector('#losses').scrollIntoView()")
            seen.screenshot(pictures / f"report-{name}.png", whole=False)
            assert (pictures / f"report-{name}.png").stat().st_size > 20_000
            if name != "phone":
                seen.page.locator("#examples").screenshot(path=str(pictures / f"report-{name}-draws.png"))
            seen.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert seen.overflow() == 0
    light, dark = colours[:2]
    # Paper, ink and the text of plots: one picture in both colours.
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert colours[2] == light


def test_several_runs_fit_a_phone(browser: Browser, reported: Path, tmp_path: Path) -> None:
    other = tmp_path / "a-run-with-quite-a-long-name-that-has-no-place-to-break-on-a-phone"
    shutil.copytree(reported, other)
    page = write_report([reported, other], tmp_path / "report.html", examples=False)
    with visit(browser, page, PHONE) as seen:
        check(seen)


def test_the_command_shows_what_the_newest_checkpoint_replaces_and_keeps_it(
    reported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(reported)]) == 0
    assert capsys.readouterr().out == f"report: {reported}/report.html\n"
    page = (reported / "report.html").read_text("utf-8")
    examples = page.split('id="examples"')[1].split("</section>")[0]
    assert "4 rows of held-out text, drawn and scored by the checkpoint of step 4." in examples
    assert len(re.findall(r'class="token[^"]* drawn"', examples)) > 4
    kept = reported / "inside" / "report-step-00000004.json"
    first = examples_of(reported)
    # The second time the file is enough: neither checkpoint nor store is opened.
    for part in (reported / "checkpoints" / "step-00000004").glob("*.pt"):
        part.unlink()
    assert examples_of(reported) == first
    # A damaged one is made anew, which can fail: then the page has a line.
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"rows": 3}))
    with pytest.raises(UserError) as error:
        examples_of(reported)
    assert "\n" not in str(error.value)


def test_what_is_no_run_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert re.fullmatch(r"electra-scale: error: .* is not a run folder: it has neither .*\n", capsys.readouterr().err)
