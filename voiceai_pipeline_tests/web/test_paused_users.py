"""Pausing and resuming on the pages: one user, several, and what the pages say meanwhile."""

import re
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline_tests.support.api_caller import Caller
from voiceai_pipeline_tests.support.installation import CEDAR, HARBOR, MAPLE, Installation, Open
from voiceai_pipeline_tests.support.listed_users import names, row
from voiceai_pipeline_tests.support.visitor import PASSWORD, Visitor

ANALYSTS = "analysts may look"
HOSTILE = "<img src=/probe/1 onerror=alert(1)>\u202e voiceai-pipeline connect USER\n**x**"


def paused(installation: Installation, *names_: str, reason: str = "") -> None:
    user_ids = installation.add(*names_)
    for user_id in user_ids:
        installation.connect(user_id)
    installation.pipeline.pauses.pause(user_ids, reason)


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_a_user_is_paused_after_a_question_with_a_reason_and_resumed_with_one_click(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        asked = visitor.get(f"/users/{HARBOR}/pause?back=/users/{HARBOR}")
        assert installation.connection(HARBOR).can_sync
        back = {"back": f"/users/{HARBOR}"}
        done = visitor.post(f"/users/{HARBOR}/pause", {**back, "reason": "closed until May"})
        listed = visitor.get().text
        resumed = visitor.post(f"/users/{HARBOR}/resume", back)

    assert "Pause the syncs of Harbor Dental?" in asked.text
    shown = text_of(done.text)
    assert "Harbor Dental: syncs are paused" in shown
    assert "connected, syncs paused" in shown
    assert re.search(
        r"An operator paused the syncs .* UTC .*, on the connections page: closed until May", shown
    )
    assert "Syncs paused by an operator (closed until May)" in shown  # the history
    assert "Resume the user with the button here" in shown
    assert "Re-sync these days" not in shown
    harbor = row(listed, "Harbor Dental")
    assert 'class="tag warn">connected, syncs paused<' in harbor
    assert "closed until May" in harbor
    assert 'aria-label="Resume: Harbor Dental"' in harbor
    assert "Sync now" not in harbor
    assert "1 user is paused" in text_of(listed)
    assert "syncs are resumed" in resumed.text
    assert "synced automatically within minutes" in resumed.text
    assert installation.connection(HARBOR).can_sync


def test_a_stale_page_and_a_second_click_change_nothing(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/pause", {"reason": "first"})
        again = visitor.post(f"/users/{HARBOR}/pause", {"reason": "second"})
        synced = visitor.post(f"/users/{HARBOR}/sync")
        tested = visitor.post(f"/users/{HARBOR}/test")
        visitor.post(f"/users/{HARBOR}/resume")
        twice = visitor.post(f"/users/{HARBOR}/resume")

    assert "syncs were paused before" in again.text
    assert installation.dagster.launched == []
    assert "sync not started" in synced.text
    assert "Resume the user with the button here" in synced.text
    assert "connection test failed" in tested.text
    assert "syncs are not paused" in twice.text
    with installation.pipeline.engine.connect() as db:
        query = "SELECT event, detail FROM token_events WHERE event LIKE 'sync%' ORDER BY id"
        assert [tuple(one) for one in db.execute(sa.text(query))] == [
            ("sync_paused", "first"),
            ("sync_resumed", ""),
        ]


def test_checked_users_are_paused_after_a_question_and_resumed_together(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    for user_id in (HARBOR, MAPLE):
        installation.connect(user_id)
    installation.pipeline.pauses.pause([MAPLE], "earlier")
    both = {"back": "/", f"user:{HARBOR}": "on", f"user:{MAPLE}": "on"}
    with installation.visitor() as visitor:
        asked = visitor.post("/chosen/pause", both)
        assert installation.connection(HARBOR).can_sync
        done = visitor.post("/chosen/pause", {**both, "sure": "yes", "reason": "season"})
        filtered = visitor.get("/?show=paused").text
        synced = visitor.post("/chosen/sync", both)
        resumed = visitor.post("/chosen/resume", both)
        none = visitor.post("/chosen/resume", both)

    assert "Pause the syncs of 2 users?" in text_of(asked.text)
    assert "Syncs of 1 user paused" in done.text
    assert "1 user had been paused before" in done.text
    assert names(filtered) == ["Harbor Dental", "Maple Plumbing"]
    assert "season" in row(filtered, "Harbor Dental")
    assert "earlier" in row(filtered, "Maple Plumbing")
    assert "Nothing to sync" in synced.text
    assert "2 users left out: their syncs are paused." in synced.text
    assert "Syncs of 2 users resumed" in resumed.text
    assert "None of the checked users is paused" in none.text


def test_those_who_are_paused_are_left_out_of_syncing_all_that_failed_again(
    installation: Installation,
) -> None:
    paused(installation, "Harbor Dental")
    installation.add("Maple Plumbing")
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    with installation.pipeline.engine.begin() as db:
        ledger.record_statuses(db, {HARBOR: UserStatus(an_hour_ago, "failure", "broke", 0)})
    with installation.visitor() as visitor:
        failed = visitor.get("/?show=failed").text
        done = visitor.post("/failed/sync")

    assert names(failed) == []
    assert "No last sync has failed" in done.text
    assert installation.dagster.launched == []


def test_a_paused_user_who_has_to_reconnect_asks_for_no_action_and_stays_paused_afterwards(
    installation: Installation,
) -> None:
    paused(installation, "Cedar Vets")  # without the scope that calls need
    paused(installation, "Harbor Dental")
    with installation.visitor() as visitor:
        attention = names(visitor.get("/?show=attention").text)
        cedar = text_of(visitor.get(f"/users/{CEDAR}").text)
        reconnected = visitor.connect(HARBOR)
        resumed = visitor.post(f"/users/{CEDAR}/resume")

    assert attention == []
    assert "needs reconnection: scopes missing, syncs paused" in cedar
    assert "The connection lacks a scope" in cedar
    assert "Harbor Dental is connected" in reconnected.text
    assert "The syncs are still paused" in reconnected.text
    assert not installation.connection(HARBOR).can_sync
    assert "Calls are read once the connection works" in resumed.text


def test_a_hostile_reason_is_text_on_every_page(installation: Installation) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/pause", {"reason": HOSTILE})
        pages = [visitor.get(path).text for path in ("/", f"/users/{HARBOR}", "/?show=paused")]

    for html in pages:
        assert "&lt;img src=/probe/1 onerror=alert(1)&gt;" in html
        assert "<img" not in html
        assert "\u202e" not in html


def test_an_analyst_sees_who_is_paused_and_why_and_can_change_nothing(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD, VOICEAI_ANALYST_SECRET=ANALYSTS) as installation:
        installation.add("Harbor Dental")
        installation.pipeline.pauses.pause([HARBOR], "closed until May")
        with Visitor(installation.url) as analyst:
            analyst.log_in(ANALYSTS)
            shown = analyst.get(f"/users/{HARBOR}").text
            chosen = {f"user:{HARBOR}": "on", "sure": "yes"}
            answers = [
                analyst.post(f"/users/{HARBOR}/resume").status_code,
                analyst.post(f"/users/{HARBOR}/pause").status_code,
                analyst.get(f"/users/{HARBOR}/pause").status_code,
                analyst.post("/chosen/resume", chosen).status_code,
                analyst.post("/chosen/pause", chosen).status_code,
            ]
        assert "closed until May" in shown
        assert f'action="/users/{HARBOR}' not in shown
        assert answers == [403] * 5
        assert installation.connection(HARBOR).pause is not None


def test_the_functions_refuse_to_sync_a_paused_user_and_refresh_all_the_same(
    connected: Caller,
) -> None:
    connected.installation.pipeline.pauses.pause([HARBOR])
    synced = connected.call("sync-highlevel-calls", {"userId": str(HARBOR)})
    tested = connected.call("oauth-test", {"userId": str(HARBOR)})
    refreshed = connected.call("oauth-refresh", {"userId": str(HARBOR)})

    assert (synced.status_code, synced.json()["error"]) == (409, "sync_paused")
    assert "voiceai-pipeline resume USER" in synced.json()["fix"]
    assert (tested.json()["success"], tested.json()["error"]) == (False, "sync_paused")
    assert (refreshed.status_code, refreshed.json()["success"]) == (200, True)
    assert connected.installation.dagster.launched == []
