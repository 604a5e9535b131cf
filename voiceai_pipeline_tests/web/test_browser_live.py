"""A running sync in a real Chromium: what an operator and an onlooker see."""

from playwright.sync_api import expect

from voiceai_pipeline_tests.support.chromium import OpenWindow
from voiceai_pipeline_tests.support.installation import HARBOR, Installation


def test_a_sync_is_followed_and_canceled_without_a_reload(
    installation: Installation, open_window: OpenWindow
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    installation.connect(HARBOR)
    dagster = installation.dagster
    onlooker, operator = open_window(), open_window()
    onlooker.goto(installation.url)
    operator.goto(f"{installation.url}/users/{HARBOR}")
    operator.get_by_role("button", name="Sync now: Harbor Dental").click()

    cell = onlooker.locator(f"td[data-user='{HARBOR}']")
    expect(cell).to_contain_text("queued")
    dagster.statuses[dagster.run_ids[0]] = "STARTED"
    expect(cell).to_contain_text("running")
    onlooker.get_by_role("button", name="Cancel the sync: Harbor Dental").click()
    expect(onlooker.get_by_text("Harbor Dental: sync is being canceled")).to_be_visible()
    expect(operator.locator("[data-user]")).to_contain_text("never")
