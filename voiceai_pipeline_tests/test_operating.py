"""The steps of docs/operating.md, clicked in Chromium on the running product.

The tests are ordered: each continues where the previous one stopped. The pictures in docs/ are
their screenshots; to take new ones:

    VOICEAI_PICTURES=docs .venv/bin/pytest voiceai_pipeline_tests/test_operating.py
"""

import os
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, expect

from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.up import Up, partition_stats

pytestmark = pytest.mark.acceptance

COPPER = DEMO["Copper Kettle Catering"]
HARBOR = DEMO["Harbor Dental"]
CALLS = "/voice-ai/dashboard/call-logs"


@pytest.fixture(scope="module")
def product(running_product: Up) -> Up:
    return running_product


@pytest.fixture(scope="module")
def window(chromium: Browser) -> Iterator[Page]:
    with chromium.new_context(viewport={"width": 1200, "height": 780}) as context:
        context.set_default_timeout(60_000)
        yield context.new_page()


def picture(page: Page, name: str) -> None:
    """Save a screenshot for docs/, if requested."""
    if folder := os.environ.get("VOICEAI_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def sandbox(product: Up, path: str, **body: Any) -> None:
    answer = requests.post(f"{product.sandbox}/sandbox/{path}", json=body, timeout=60)
    answer.raise_for_status()


def requested_locations(product: Up) -> set[str]:
    """The locations whose calls were requested since the last time."""
    asked = requests.get(f"{product.sandbox}/sandbox/requests", timeout=60).json()
    requests.delete(f"{product.sandbox}/sandbox/requests", timeout=60).raise_for_status()
    return {one["location_id"] for one in asked if one["path"] == CALLS}


def colours(product: Up) -> dict[str, int]:
    """How many days of call_logs are red and green."""
    stats = partition_stats(product.url)
    return {name: stats[name] for name in ("numFailed", "numMaterialized")}


def launch(dialog: Locator, button: str) -> None:
    dialog.get_by_role("button", name=button).click()
    expect(dialog).to_be_hidden()


def materialize(page: Page) -> Locator:
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize call_logs")
    expect(dialog).to_be_visible()
    return dialog


def test_the_first_screen_says_whether_yesterday_is_complete_and_which_users_need_action(
    product: Up, week: list[date], window: Page
) -> None:
    window.set_viewport_size({"width": 1440, "height": 720})
    window.goto(f"{product.url}/assets/sync_status")
    yesterday = week[5]
    answer = window.get_by_role("row", name="is_yesterday_complete")
    expect(answer).to_contain_text(f"Yes, for all 8 who can be synced. {yesterday:%A} {yesterday}:")
    in_need = window.get_by_role("row", name="who_needs_something")
    expect(in_need).to_contain_text("Larch Auto Care needs action: Failed to refresh token.")
    # Without a click and without scrolling.
    for cell in (answer, in_need):
        box = cell.bounding_box()
        assert box is not None
        assert box["y"] < 700
    picture(window, "sync-status")
    window.set_viewport_size({"width": 1200, "height": 780})


def test_the_answer_of_a_red_day_leads_to_the_dialog_that_re_syncs_it(
    product: Up, week: list[date], window: Page
) -> None:
    window.goto(f"{product.url}/assets/sync_status?view=partitions&partition={week[3]}")
    answer = window.get_by_role("row", name="is_this_day_complete")
    expect(answer).to_contain_text("No, 87.5 % of the 8 who can be synced; 58.3 % of all users.")
    expect(answer).to_contain_text("Missing: Copper Kettle Catering.")
    picture(window, "red-day")
    answer.get_by_role("link", name="Re-sync this day").click()
    window.wait_for_url("**/assets/call_logs**")
    dialog = materialize(window)
    expect(dialog).to_contain_text("1 partition")
    expect(dialog.get_by_role("textbox").first).to_have_value(str(week[3]))
    expect(dialog.get_by_role("button", name="Launch 1 run")).to_be_enabled()
    picture(window, "read-a-day-again")


def test_everything_since_a_date_says_first_what_will_run_and_ends_red_where_it_must(
    product: Up, week: list[date], window: Page
) -> None:
    sandbox(product, "heal", location_id=COPPER.location_id)
    sandbox(product, "faults", kind="server_error", location_id=COPPER.location_id, status=503)
    window.goto(f"{product.url}/assets/call_logs?view=partitions")
    dialog = materialize(window)
    box = dialog.get_by_role("textbox").first
    box.fill(f"[{week[0]}...{week[5]}]")
    box.press("Enter")
    expect(dialog).to_contain_text("6 partitions")
    dialog.get_by_text("Preview").click()
    preview = window.get_by_role("dialog").filter(has_text="Backfill preview")
    expect(preview).to_contain_text(f"{week[0]}...{week[5]}")
    picture(window, "since-a-date")
    preview.get_by_role("button", name="OK").click()
    launch(dialog, "Launch backfill")
    # The backfill itself ends at the daemon's next look, up to half a minute later.
    wait_until(lambda: colours(product) == {"numFailed": 6, "numMaterialized": 50})
    # All other users have every call of these days.
    complete = product.ask(
        "SELECT count(*), count(DISTINCT user_id) FROM sync_ledger WHERE state = 'complete' "  # noqa: S608
        f"AND day BETWEEN '{week[0]}' AND '{week[5]}'"
    )
    assert complete == [(6 * 7, 7)]


def test_many_red_days_are_one_choice_in_the_dialog(product: Up, window: Page) -> None:
    sandbox(product, "heal", location_id=COPPER.location_id)
    requested_locations(product)
    window.goto(f"{product.url}/assets/call_logs?view=partitions")
    expect(window.get_by_text("Failed (6)")).to_be_visible()
    dialog = materialize(window)
    dialog.get_by_role("button", name="Failed and missing").click()
    expect(dialog).to_contain_text("6 partitions")
    picture(window, "failed-and-missing")
    launch(dialog, "Launch backfill")
    wait_until(lambda: partition_stats(product.url)["numMaterialized"] == 56)
    assert requested_locations(product) == {COPPER.location_id}


def test_a_month_of_one_user_is_re_synced_from_the_users_page(
    product: Up, week: list[date], window: Page
) -> None:
    window.goto(product.page)
    window.get_by_role("link", name=HARBOR.business_name, exact=True).click()
    expect(window.get_by_label("From")).to_have_value(re.compile(r"\d{4}-\d\d-\d\d"))
    picture(window, "a-month-of-one-user")
    first = window.get_by_label("From").input_value()
    window.get_by_role("button", name="Re-sync these days").click()
    said = window.get_by_role("status")
    expect(said).to_contain_text(f"Dagster is syncing {first} to {week[6]}")
    expect(said.get_by_role("link", name="Open run")).to_be_visible()
