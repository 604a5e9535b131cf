"""axe-core finds nothing on any page: light, dark, and on a phone."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.sandbox.cast import DEMO_LOCATIONS
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.chromium import OpenWindow
from voiceai_pipeline_tests.support.installation import (
    AGENCY,
    CEDAR,
    Installation,
    Open,
    agency_world,
)
from voiceai_pipeline_tests.support.mart_calls import DAY, Book
from voiceai_pipeline_tests.support.visitor import PASSWORD

pytestmark = pytest.mark.acceptance

LOOKS: list[tuple[str, tuple[int, int]]] = [
    ("light", (1280, 800)), ("dark", (1280, 800)), ("light", (375, 812)),
]  # fmt: skip
CALL = "/calls/LocHere/call-1"


@pytest.fixture
def world() -> World:
    """Every demo location, and a second one of the agency."""
    vans = next(o for o in agency_world().locations.values() if o.name == "Northwind Vans")
    return World(locations=(*DEMO_LOCATIONS, vans))


@pytest.fixture
def furnished(open_page: Open) -> Iterator[Installation]:
    """Pages with a password; users in several states; calls with words, actions and data."""
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        installation.add("Northwind Agency", "Cedar Vets")
        engine, today = installation.pipeline.engine, installation.site.today()
        book = Book(engine)
        book.location("LocHere", "America/New_York")
        book.read("LocHere", today - 16 * DAY, today)
        noon = datetime.combine(today, time(17), UTC)
        for number, ago in product(range(25), (3, 10)):
            book.call(
                "LocHere",
                noon - ago * DAY + timedelta(minutes=number),
                extracted_data={"reason": "visit"},
                translation={"language": "es"} if number % 2 else None,
                executed_call_actions=[{"actionType": "APPOINTMENT_BOOKING", "actionName": "Book"}],
                is_agent_deleted=number % 3 == 0,
            )
        installation.pipeline.marts.build([today - n * DAY for n in range(15)])
        now = datetime.now(UTC)
        with engine.begin() as db:
            connections.add_user(db, UUID(int=1), business_name="W" * 60)
            ledger.record_statuses(db, {CEDAR: UserStatus(now, "failure", "It failed", 0)})
        yield installation


def violations(page: Page, *, only: str | None = None) -> list[Any]:
    """What axe finds on the page as it is shown, with all that can be unfolded; by one rule or by
    all of them."""
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"], **({"runOnly": [only]} if only else {})}
    found: list[Any] = page.evaluate(
        "options => axe.run(options).then(result => result.violations.map("
        "one => [one.id, one.help, one.nodes.map(node => node.html).slice(0, 3)]))",
        options,
    )
    return found


def looked_at(page: Page) -> list[Any]:
    """What axe finds on the open page in every look."""
    found = []
    for scheme, (width, height) in LOOKS:
        page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
        page.set_viewport_size({"width": width, "height": height})
        # In the dark only colours differ.
        only = "color-contrast" if scheme == "dark" else None
        found += [(page.url, scheme, width, *one) for one in violations(page, only=only)]
    return found


def test_axe_finds_nothing_on_any_page(furnished: Installation, open_window: OpenWindow) -> None:
    page = open_window()
    page.goto(furnished.url)
    found = looked_at(page)  # the login
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Connect: Northwind Agency").click()
    page.get_by_role("button", name="Allow").wait_for()
    found += looked_at(page)  # the sandbox's
    page.get_by_role("button", name="Allow").click()
    page.get_by_role("button", name="Use this location").wait_for()
    found += looked_at(page)
    page.get_by_role("radio", name="Northwind Vans").check()
    page.get_by_role("button", name="Use this location").click()
    page.get_by_role("status").wait_for()
    found += looked_at(page)  # a message above the list
    for path in (
        "/?show=attention",
        "/?q=nobody",
        f"/users/{AGENCY}",
        f"/users/{CEDAR}",
        f"/users/{CEDAR}/private-token",
        f"/users/{AGENCY}/disconnect",
        "/logins",
        "/changes",
        "/calls",
        "/calls?q=patient&outcome=goal&days=90d",
        "/calls?min=999",
        CALL,
        "/calls/openings",
        "/insights",
        "/insights?location=LocHere&agent=agent-days",
        "/insights?from=2020-01-01",
        "/insights/values",
        furnished.sandbox.url,
    ):
        page.goto(path if path.startswith("http") else furnished.url + path)
        found += looked_at(page)
    assert not found, json.dumps(found, indent=1)
