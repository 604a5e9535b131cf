"""The pages of calls in a real Chromium: by keyboard, without a script, wide and narrow, light and
dark. A test also fails if the browser reports an error or refuses content (``open_window``)."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from playwright.sync_api import Page, expect

from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline_tests.support.call_desk import (
    HARBOR,
    MORNING,
    NEW_YORK,
    CallDesk,
    running_desk,
)
from voiceai_pipeline_tests.support.chromium import OpenWindow
from voiceai_pipeline_tests.support.contrast import CONTRAST
from voiceai_pipeline_tests.support.visitor import PASSWORD

pytestmark = pytest.mark.acceptance

LIST = "/calls?from=2026-11-18&to=2026-11-18"


@pytest.fixture(scope="module")
def desk(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CallDesk]:
    with running_desk(postgres, template, tmp_path_factory.mktemp("browser")) as desk:
        desk.location(HARBOR, "Harbor Dental", NEW_YORK)
        desk.agent(HARBOR, "agent-front", "Front desk")
        for n in range(60):
            desk.call(
                at=MORNING + timedelta(minutes=n),
                summary=f"Question {n}: " + "a very long word " * 9 + "x" * 60,
                is_trial=n == 7,
                missing_since=MORNING if n == 8 else None,
                executed_call_actions=[{"actionType": "SMS", "actionName": "Tell"}],
            )
        desk.index()
        yield desk


def logged_in(desk: CallDesk, page: Page, path: str) -> Page:
    page.goto(f"{desk.url}/login?next=/calls")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{desk.url}/calls")
    page.goto(desk.url + path)
    return page


def test_the_keyboard_alone_searches_walks_opens_and_comes_back(
    desk: CallDesk, open_window: OpenWindow
) -> None:
    page = logged_in(desk, open_window(), LIST)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("jk/question")
    expect(page.get_by_role("searchbox")).to_have_value("jk/question")
    page.keyboard.press("Escape")

    rows = page.locator("table.calls a.open")
    for keys, at in (("j", 0), ("jj", 2), ("k", 1), ("kkk", 0)):
        for key in keys:
            page.keyboard.press(key)
        expect(rows.nth(at)).to_be_focused()
    page.keyboard.press("j")
    title = page.get_by_role("heading", level=1)
    for key, minute in (("Enter", 40), ("]", 39), ("[", 40)):
        page.keyboard.press(key)
        expect(title).to_have_text(f"Call of Wed 18 Nov 2026 11:{minute} EST")
        page.wait_for_load_state()  # until its script is there, a key does nothing
    page.keyboard.press("Escape")
    expect(page).to_have_url(desk.url + LIST)


def test_everything_works_without_a_script(desk: CallDesk, open_window: OpenWindow) -> None:
    page = logged_in(desk, open_window(java_script_enabled=False), LIST)
    page.get_by_role("searchbox").fill('"question 42"')
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("mark")).to_have_text(["Question 42"])
    page.get_by_role("link", name="UTC").click()
    page.get_by_role("rowheader").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Call of Wed 18 Nov 2026 16:24 UTC")
    page.locator("#back").click()
    page.get_by_role("link", name="Clear all").click()
    expect(page).to_have_url(f"{desk.url}/calls")


def test_mine_is_the_browsers_time_zone(desk: CallDesk, open_window: OpenWindow) -> None:
    page = logged_in(desk, open_window(timezone_id="Europe/Berlin"), LIST)
    page.get_by_role("link", name="mine").click()
    expect(page.locator("table.calls a.open").first).to_have_text("Wed 18 Nov 2026, 17:41 CET")
    expect(page.get_by_role("link", name="Europe/Berlin")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable_and_no_page_scrolls_sideways(
    desk: CallDesk, open_window: OpenWindow, scheme: str
) -> None:
    page = logged_in(desk, open_window(color_scheme=scheme), LIST)
    address = page.locator("table.calls a.open").first.get_attribute("href")
    for path in (LIST, f"{LIST}&q=question&show=all&sort=duration", f"{LIST}&min=999", address):
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(f"{desk.url}{path}")
            assert page.evaluate(CONTRAST) == [], (path, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
