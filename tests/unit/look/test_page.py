"""The page in a real browser: what a user does there, and what is never there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from electra_scale.corruption.random import RandomSettings
from electra_scale.inside.inside import Inside
from tests.support.fixtures.browser import DESKTOP, PHONE, Visit, visit
from tests.unit.inside.conftest import SAMPLERS, open_inside, without_distributions
from tests.unit.look.conftest import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = pytest.mark.slow


@pytest.fixture
def page(browser: Browser, page_of_run: str) -> Iterator[Visit]:
    """The page of a run with hp_loss, which must leave neither an error nor a request to others."""
    with visit(browser, page_of_run) as seen:
        write(seen, "the cat sat on the mat.")
        yield seen
        assert seen.errors == []
        assert all(request.startswith(page_of_run) for request in seen.requests)


def write(seen: Visit, text: str) -> None:
    """Type a text in the place of the one there, and look at it."""
    seen.page.fill("#text", text)
    seen.page.press("#text", "Enter")
    finished(seen)


def finished(seen: Visit) -> None:
    """Wait for the answer to the last question."""
    seen.page.wait_for_selector("#status:not(:text('Looking'))", state="attached")
    seen.page.wait_for_timeout(20)
    seen.page.wait_for_selector("#status:not(:text('Looking'))", state="attached")


def token(seen: Visit, index: int) -> Locator:
    return seen.page.locator("#tokens .token").nth(index)


def mask(seen: Visit, index: int) -> None:
    token(seen, index).click()
    seen.page.wait_for_selector(f"#tokens .token:nth-child({index + 1}).masked")


def column(seen: Visit, name: str) -> list[str]:
    return seen.page.locator(f"#rows td.{name}").all_inner_texts()


def words(seen: Visit) -> list[str]:
    return seen.page.locator("#tokens .word").all_inner_texts()


def test_a_user_masks_a_word_and_sees_p_against_q_the_draw_and_colours(page: Visit, hard: Inside) -> None:
    assert words(page) == ["[CLS]", "the", "cat", "sat", "on", "the", "mat", ".", "[SEP]"]
    assert page.page.locator("#candidates").is_hidden()
    mask(page, 2)
    mask(page, 6)
    expected = hard.look("the cat sat on the mat.", [2, 6], 0)
    drawn = page.page.locator("#tokens .drawn").all_inner_texts()
    assert drawn == [position.drawn.token for position in expected.positions]
    scores = page.page.locator("#tokens .score").all_inner_texts()
    assert scores == [f"{one.score:.2f}" for one in expected.tokens]
    colours = [token(page, index).evaluate("part => getComputedStyle(part).backgroundColor") for index in range(9)]
    assert len(set(colours)) > 5
    assert "mat" in page.page.inner_text("#drawn")
    p, q = column(page, "p"), column(page, "q")
    assert len(p) == len(q) == len(expected.positions[1].candidates) + 1
    assert p != q
    hardness = [f"{one.hardness:.2f}" for one in expected.positions[1].candidates]
    assert column(page, "hardness") == [*hardness, ""]
    assert page.page.locator(".tag.is-drawn").count() == page.page.locator(".tag.is-original").count() == 1
    page.page.click("#positions button:first-child")
    assert "cat" in page.page.inner_text("#drawn")
    token(page, 2).click()
    page.page.wait_for_selector("#tokens .token:nth-child(3):not(.masked)")
    assert page.page.locator("#positions button").count() == 1


def test_another_key_draws_again_and_the_first_one_gives_the_first_draw_back(page: Visit, hard: Inside) -> None:
    page.page.click("#random")
    finished(page)
    masked = hard.random_masks("the cat sat on the mat.", 0)
    seen = {}
    for key in range(4):
        assert page.page.input_value("#key") == str(key)
        seen[key] = page.page.locator("#tokens .drawn").all_inner_texts()
        expected = hard.look("the cat sat on the mat.", masked, key).positions
        assert seen[key] == [position.drawn.token for position in expected]
        page.page.click("#again")
        finished(page)
    assert len({tuple(drawn) for drawn in seen.values()}) > 1
    page.page.fill("#key", "0")
    page.page.press("#key", "Tab")
    finished(page)
    assert page.page.locator("#tokens .drawn").all_inner_texts() == seen[0]
    page.page.click("#clear")
    page.page.wait_for_selector("#candidates", state="hidden")


def test_all_of_it_is_reached_by_keyboard_and_the_focus_stays(page: Visit) -> None:
    page.page.focus("#key")
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("document.activeElement.dataset.index") == "1"
    page.page.keyboard.press("Space")
    page.page.wait_for_selector("#tokens .token:nth-child(2).masked")
    assert page.page.evaluate("document.activeElement.dataset.index") == "1"
    assert page.page.get_attribute("#tokens .token:nth-child(2)", "aria-pressed") == "true"
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector("#tokens .token:nth-child(2):not(.masked)")


def test_a_text_that_the_model_cannot_take_is_a_line_and_the_next_one_is_taken(page: Visit) -> None:
    for text, line in (("", "no token"), ("cat " * 200, "at most 12"), ("   ", "no token")):
        page.page.fill("#text", text)
        page.page.click("button.main")
        page.page.wait_for_selector(f"#error:has-text('{line}')")
        assert page.page.locator("#result").get_attribute("inert") is not None
    write(page, "a dog slept")
    assert page.page.locator("#error").is_hidden()
    assert page.page.locator("#result").get_attribute("inert") is None
    assert words(page) == ["[CLS]", "a", "dog", "slept", "[SEP]"]


def test_markup_in_a_text_and_what_the_vocabulary_lacks_are_shown_as_characters(page: Visit) -> None:
    write(page, "the <b>🦊</b> sat")
    assert "🦊 [UNK]" in words(page)
    assert "🦊" in page.page.inner_text("#notes")
    label = token(page, words(page).index("🦊 [UNK]")).get_attribute("aria-label")
    assert label is not None
    assert label.startswith("🦊 [UNK], score 0.")
    write(page, "<img src=x onerror=1>")
    mask(page, 1)
    assert page.page.locator("main img, main b, main script").count() == 0


def test_nothing_is_wider_than_a_phone_in_light_or_dark(browser: Browser, page_of_run: str) -> None:
    for dark in (False, True):
        with visit(browser, page_of_run, PHONE, dark) as seen:
            write(seen, f"the cat {'x' * 90} sat on {'ü' * 90}")
            seen.page.click("#random")
            finished(seen)
            mask(seen, 3)
            seen.page.click("summary")
            assert seen.overflow() == 0
            assert seen.page.locator("#rows tr").count() > 3
            shown = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (shown == "rgb(255, 255, 255)") != dark
            assert seen.errors == []


def test_two_tabs_do_not_disturb_each_other(browser: Browser, page_of_run: str) -> None:
    with ExitStack() as stack:
        one, two = (stack.enter_context(visit(browser, page_of_run)) for _ in range(2))
        write(one, "the cat sat")
        write(two, "a dog ran under the roof")
        mask(one, 2)
        mask(two, 5)
        assert words(one) == ["[CLS]", "the", "cat", "sat", "[SEP]"]
        assert one.page.locator("#positions button").all_inner_texts() == ["2: cat"]
        assert two.page.locator("#positions button").all_inner_texts() == ["5: the"]


def test_where_q_is_p_or_there_is_no_p_the_page_shows_one_of_them(browser: Browser) -> None:
    for settings, kept, gone, line in (
        (SAMPLERS["electra"], "p", "q", "q is p"),
        (RandomSettings(), "q", "p", "every token is as likely"),
    ):
        with serving(open_inside(settings)) as url, visit(browser, url, DESKTOP) as seen:
            write(seen, "the cat sat")
            mask(seen, 2)
            assert line in seen.page.inner_text("#drawn")
            assert seen.page.locator(f"th.{kept}").is_visible()
            assert seen.page.locator(f"th.{gone}").is_hidden()
            assert column(seen, kept)
            assert column(seen, gone) == column(seen, "hardness") == []
            assert seen.errors == []
    with serving(without_distributions()) as url, visit(browser, url, DESKTOP) as seen:
        write(seen, "the cat sat")
        mask(seen, 2)
        assert "no probabilities to show" in seen.page.inner_text("#drawn")
        assert "no p and q to show" in seen.page.inner_text("#notes")
        assert seen.page.locator("#table").is_hidden()
        assert seen.errors == []


def test_a_program_that_has_ended_is_named(browser: Browser, hard: Inside) -> None:
    with ExitStack() as stack:
        with serving(hard) as url:
            seen = stack.enter_context(visit(browser, url))
            write(seen, "the cat sat")
        seen.page.fill("#text", "a dog")
        seen.page.press("#text", "Enter")
        seen.page.wait_for_selector("#error:has-text('does not answer')")
