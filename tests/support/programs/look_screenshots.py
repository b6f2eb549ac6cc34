"""The screenshots of docs/look.md: ``python -m tests.support.programs.look_screenshots RUN FOLDER [TEXT]``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from electra_scale.inside.opening import open_run
from tests.support.fixtures.browser import DESKTOP, PHONE, visit
from tests.unit.look.conftest import serving

TEXT = "The government of the country was elected by the people, and the war was over."

MASKED = (7, 14)
"""Tokens of TEXT that are masked: elected, war."""


def main(run: str, folder: str, text: str = TEXT) -> None:
    """The page with two masks, as a user of a bright, of a dark and of a small screen sees it."""
    with sync_playwright() as playwright, serving(open_run(run)) as url:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, screen, dark in (("light", DESKTOP, False), ("dark", DESKTOP, True), ("phone", PHONE, False)):
            with visit(browser, url, screen, dark) as seen:
                seen.page.fill("#text", text)
                seen.page.press("#text", "Enter")
                for token in MASKED:
                    seen.page.click(f"#tokens [data-index='{token}']")
                    seen.page.wait_for_selector(f"#tokens [data-index='{token}'][aria-pressed=true]")
                seen.page.wait_for_selector("#positions button:nth-child(2)")
                # Where the generator is sure, a sampler that has learned changes most.
                seen.page.locator("#positions button").last.click()
                seen.page.wait_for_selector("#positions button:last-child[aria-pressed=true]")
                seen.screenshot(Path(folder) / f"look-{name}.png")
                assert seen.errors == []
                assert seen.overflow() == 0
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
