"""What tests see of a page is what the page does: the browser's records of errors, requests and widths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.fixtures.browser import PHONE, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow


def test_errors_requests_and_width_of_a_page_are_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><body style='margin:0'><div style='width:500px'>wide</div>"
        "<img src='http://192.0.2.1/pixel.png'><script>console.error('broken'); missing();</script>"
    )
    with visit(browser, page, PHONE) as seen:
        assert seen.overflow() == 500 - PHONE[0]
    assert any("broken" in error for error in seen.errors)
    assert any("missing is not defined" in error for error in seen.errors)
    assert seen.requests == ["http://192.0.2.1/pixel.png"]


def test_a_page_follows_the_colours_of_the_system(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><style>@media (prefers-color-scheme: dark) { body { color: white } }</style><p>a")
    for dark, colour in ((False, "rgb(0, 0, 0)"), (True, "rgb(255, 255, 255)")):
        with visit(browser, page, dark=dark) as seen:
            assert seen.page.evaluate("getComputedStyle(document.body).color") == colour
            assert (seen.errors, seen.requests, seen.overflow()) == ([], [], 0)
