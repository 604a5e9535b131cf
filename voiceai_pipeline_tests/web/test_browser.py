"""The pages in a real Chromium: with mouse and keyboard, wide and narrow, light and dark.

A test also fails if the browser reports an error (``open_window``).
"""

from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.connections import circuit_breaker
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web import user_list
from voiceai_pipeline_tests.support.chromium import OpenWindow
from voiceai_pipeline_tests.support.contrast import CONTRAST
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.hostile_texts import REQUESTED, hostile_texts
from voiceai_pipeline_tests.support.installation import (
    AGENCY,
    CEDAR,
    HARBOR,
    Installation,
    Open,
    agency_world,
)
from voiceai_pipeline_tests.support.receivers import serving
from voiceai_pipeline_tests.support.visitor import PASSWORD

pytestmark = pytest.mark.acceptance


def furnish(installation: Installation) -> None:
    """Users in each state that looks different, with a long name and a long message."""
    installation.add("Harbor Dental", "Cedar Vets", "Willow Spa", "Juniper Fitness")
    for user_id in (HARBOR, CEDAR, UUID(DEMO["Willow Spa"].id)):
        installation.connect(user_id)
    installation.sandbox.world.pause("LocWillowSpa000010")
    now = datetime.now(UTC)
    with installation.visitor() as visitor:
        visitor.post(f"/users/{DEMO['Willow Spa'].id}/test")
    with installation.pipeline.engine.begin() as db:
        connections.add_user(db, UUID(int=1), business_name="W" * 60)
        ledger.record_statuses(db, {HARBOR: UserStatus(now, "success", "", 1234)})
        ledger.record_statuses(db, {CEDAR: UserStatus(now, "failure", "It_failed/" * 20, 0)})
        for _ in range(circuit_breaker.THRESHOLD):
            circuit_breaker.count_failure(db, FailureClass.CLIENT_REFUSED, "HTTP 401", now, None)


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button).click()


# Workflows ---------------------------------------------------------------------------------------


def test_connect_revoke_test_and_reconnect(
    installation: Installation, open_window: OpenWindow
) -> None:
    installation.add("Harbor Dental")
    page = open_window()
    page.goto(installation.url)

    press(page, "Connect: Harbor Dental")
    expect(page).to_have_title("Choose a location")
    expect(page.get_by_role("radio", name="Harbor Dental")).to_be_checked()
    press(page, "Allow")
    expect(page.get_by_role("status")).to_contain_text("Harbor Dental is connected")
    expect(page).to_have_url(f"{installation.url}/")
    expect(page.get_by_role("row", name="Harbor Dental")).to_contain_text("connected")

    page.goto(installation.sandbox.url)
    with page.expect_navigation():
        press(page, "Revoke: Harbor Dental")
    page.goto(installation.url)
    press(page, "Test: Harbor Dental")
    expect(page.get_by_role("alert")).to_contain_text("Failed to refresh token")
    harbor = page.get_by_role("row", name="Harbor Dental")
    expect(harbor).to_contain_text("needs reconnection: revoked")
    expect(harbor).to_contain_text("Re-authorize the OAuth connection with the button here.")

    press(page, "Reconnect: Harbor Dental")
    press(page, "Allow")
    expect(page.get_by_role("status")).to_contain_text("Harbor Dental is connected")
    press(page, "Test: Harbor Dental")
    expect(page.get_by_role("status")).to_contain_text("Harbor Dental: connection test passed")

    page.get_by_role("link", name="Harbor Dental", exact=True).click()
    events = page.get_by_role("row")
    expect(events.last).to_contain_text("Connected by consent in the browser")
    expect(page.get_by_role("row", name="Token refresh failed")).to_be_visible()


class _Redirecting(BaseHTTPRequestHandler):
    """An authorize page that redirects to another host, with the whole path and query."""

    target: str

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.target + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_connect_works_across_redirects_to_other_hosts(
    open_page: Open, sandbox: RunningSandbox, open_window: OpenWindow
) -> None:
    """HighLevel's login and its white labels are on hosts that we do not know."""
    redirecting = type("Redirecting", (_Redirecting,), {"target": sandbox.url})
    with (
        serving(ThreadingHTTPServer(("127.0.0.1", 0), redirecting)) as port,
        open_page(
            HIGHLEVEL_AUTH_URL=f"http://127.0.0.1:{port}/v2/oauth/chooselocation"
        ) as installation,
    ):
        installation.add("Harbor Dental")
        page = open_window()
        page.goto(installation.url)

        press(page, "Connect: Harbor Dental")
        expect(page).to_have_title("Choose a location")
        assert page.url.startswith(f"{sandbox.url}/")
        press(page, "Allow")
        expect(page.get_by_role("status")).to_contain_text("Harbor Dental is connected")
        page.close()  # it listens to what happens, until the installation ends


def test_a_refused_consent_changes_nothing(installation: Installation, chromium: Any) -> None:
    installation.add("Harbor Dental")
    # Not by open_window: Chromium itself reports that the answer has the status 400.
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(installation.url)
        press(page, "Connect: Harbor Dental")
        press(page, "Cancel")
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_text("Not connected")
        expect(page.get_by_role("main")).to_contain_text("was refused in the browser")
        page.get_by_role("link", name="Go to the list").click()
        expect(page.get_by_role("row", name="Harbor Dental")).to_contain_text("never connected")


def test_disconnect_asks_first(installation: Installation, open_window: OpenWindow) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    page = open_window()
    page.goto(f"{installation.url}/?q=harbor")

    page.get_by_role("link", name="Disconnect: Harbor Dental").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Disconnect Harbor Dental?")
    page.get_by_role("link", name="Keep connected").click()
    expect(page).to_have_url(f"{installation.url}/?q=harbor")
    expect(page.get_by_role("row", name="Harbor Dental")).to_contain_text("connected")

    page.get_by_role("link", name="Disconnect: Harbor Dental").click()
    press(page, "Disconnect Harbor Dental")
    expect(page.get_by_role("status")).to_contain_text("Harbor Dental is disconnected")
    expect(page.get_by_role("button", name="Connect: Harbor Dental")).to_be_visible()


def test_checked_users_are_paused_with_a_reason_and_resumed(
    installation: Installation, open_window: OpenWindow
) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    page = open_window()
    page.goto(installation.url)

    page.get_by_role("checkbox", name="Choose Harbor Dental").check()
    press(page, "Pause")
    page.get_by_label("Reason").fill("closed until May")
    page.get_by_label("Reason").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Syncs of 1 user paused")
    harbor = page.get_by_role("row", name="Harbor Dental")
    expect(harbor).to_contain_text("connected, syncs paused")
    expect(harbor).to_contain_text("closed until May")
    page.get_by_role("link", name="Paused 1").click()
    press(page, "Resume: Harbor Dental")
    expect(page.get_by_role("status")).to_contain_text("syncs are resumed")
    expect(page.get_by_role("link", name="Paused 0")).to_be_visible()


def test_sync_now_links_to_the_run(installation: Installation, open_window: OpenWindow) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    page = open_window()
    page.goto(installation.url)

    press(page, "Sync now: Harbor Dental")
    link = page.get_by_role("link", name="Open run")
    run_id = installation.dagster.run_ids[0]
    expect(link).to_have_attribute("href", f"{installation.dagster.url}/runs/{run_id}")


class TestAnAgency:
    """With two locations."""

    @pytest.fixture
    def world(self) -> World:
        return agency_world()

    def test_the_location_of_an_agency_is_chosen_on_the_page(
        self, installation: Installation, open_window: OpenWindow
    ) -> None:
        installation.add("Northwind Agency")
        page = open_window()
        page.goto(installation.url)

        press(page, "Connect: Northwind Agency")
        press(page, "Allow")
        page.get_by_role("radio", name="Northwind Vans").check()
        press(page, "Use this location")
        expect(page.get_by_role("status")).to_contain_text("Northwind Agency is connected")
        assert installation.connection(AGENCY).location_name == "Northwind Vans"


def test_connect_works_with_the_keyboard_alone(
    installation: Installation, open_window: OpenWindow
) -> None:
    installation.add("Harbor Dental")
    page = open_window()
    page.goto(installation.url)

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    connect = page.get_by_role("button", name="Connect: Harbor Dental")
    for _ in range(30):
        page.keyboard.press("Tab")
        if connect.evaluate("e => e === document.activeElement"):
            break
    expect(connect).to_be_focused()
    assert connect.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("Enter")

    allow = page.get_by_role("button", name="Allow")
    expect(allow).to_be_visible()
    for _ in range(12):
        page.keyboard.press("Tab")
        if allow.evaluate("e => e === document.activeElement"):
            break
    page.keyboard.press("Enter")
    # Screen readers announce the result, and the next Tab continues from there.
    expect(page.get_by_role("status")).to_be_focused()
    expect(page.get_by_role("status")).to_contain_text("Harbor Dental is connected")


def test_connect_and_search_work_without_javascript(
    installation: Installation, open_window: OpenWindow
) -> None:
    installation.add("Harbor Dental")
    page = open_window(java_script_enabled=False)
    page.goto(installation.url)

    press(page, "Connect: Harbor Dental")
    press(page, "Allow")
    expect(page.get_by_role("status")).to_contain_text("Harbor Dental is connected")
    page.get_by_role("searchbox").fill("unknown")
    press(page, "Search")
    expect(page.get_by_role("heading", name="No matching users")).to_be_visible()


def test_logging_in_and_out(open_page: Open, open_window: OpenWindow) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        installation.add("Harbor Dental")
        page = open_window()
        page.goto(f"{installation.url}/users/{HARBOR}")

        expect(page.get_by_label("Password")).to_be_focused()
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Harbor Dental")
        press(page, "Connect: Harbor Dental")
        press(page, "Allow")
        expect(page.get_by_role("status")).to_contain_text("Harbor Dental is connected")
        press(page, "Log out")
        expect(page.get_by_role("status")).to_contain_text("You have been logged out.")


# Looks -------------------------------------------------------------------------------------------


def test_every_page_fits_its_window_and_is_accessible(
    installation: Installation, open_window: OpenWindow
) -> None:
    furnish(installation)
    looks: list[dict[str, Any]] = [
        {"viewport": {"width": 375, "height": 812}, "is_mobile": True, "has_touch": True},
        {"viewport": {"width": 1280, "height": 800}},
        {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"},
        {"viewport": {"width": 900, "height": 800}, "color_scheme": "dark"},
    ]
    installation.pipeline.pauses.pause([UUID(int=1)], "a reason_without_room " * 9)
    paths = ("/", f"/users/{CEDAR}", f"/users/{UUID(int=1)}")
    paths += (f"/users/{HARBOR}/disconnect", f"/users/{HARBOR}/pause")
    for look in looks:
        page = open_window(**look)
        for path in paths:
            page.goto(installation.url + path)
            # No horizontal scroll, whatever is in it.
            width = look["viewport"]["width"]
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, look)
            assert page.evaluate(CONTRAST) == [], (path, look)
            assert page.locator("h1").count() == 1
            for landmark in ("banner", "main"):
                assert page.get_by_role(landmark).count() == 1
            assert page.locator("html").get_attribute("lang") == "en"
            unnamed = page.locator("main").get_by_role("button", name="", exact=True)
            assert unnamed.count() == 0
            ids = page.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
            assert len(ids) == len(set(ids))
        # Every button of the list names its user.
        page.goto(installation.url)
        for button in page.locator("table button, table a.button").all():
            assert ": " in (button.get_attribute("aria-label") or "")


def test_a_thousand_hostile_texts_ask_for_nothing(
    installation: Installation, open_window: OpenWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_list, "PER_PAGE", 1000)  # all of them on one page
    texts = [text.replace("\0", "") for text in hostile_texts()]  # PostgreSQL has no NUL
    now = datetime.now(UTC)
    with installation.pipeline.engine.begin() as db:
        for number, text in enumerate(texts[:500], 1):
            connections.add_user(db, UUID(int=number), business_name=text, last_name=text)
        failed = {
            UUID(int=number): UserStatus(now, "failure", text, 0)
            for number, text in enumerate(texts[500:], 1)
        }
        ledger.record_statuses(db, failed)
    page, asked = open_window(), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(installation.url)
    assert page.locator("body").inner_text().count("probe") > 500
    assert page.evaluate(REQUESTED) == []
    assert [one for one in asked if "probe" in one or "evil" in one] == []


def test_on_a_phone_the_table_is_cards_and_still_a_table_to_a_screen_reader(
    installation: Installation, open_window: OpenWindow
) -> None:
    installation.add("Harbor Dental", "Cedar Vets")
    page = open_window(viewport={"width": 375, "height": 812})
    page.goto(installation.url)

    first, second = (
        page.get_by_role("row", name=name).bounding_box() for name in ("Cedar Vets", "Harbor")
    )
    assert first is not None
    assert second is not None
    assert second["y"] >= first["y"] + first["height"]
    assert page.get_by_role("table").get_by_role("cell").count() == 8
    button = page.get_by_role("button", name="Connect: Harbor Dental").bounding_box()
    assert button is not None
    assert button["height"] >= 40  # large enough for a thumb
    # The sandbox's page too: every button can be seen and hit without scrolling sideways.
    page.goto(installation.sandbox.url)
    assert page.get_by_role("table").get_by_role("row").count() == 13
    boxes = [one.bounding_box() for one in page.locator("td button").all()]
    assert all(box and box["height"] >= 40 and box["x"] + box["width"] <= 375 for box in boxes)
