"""The list, a user's own page, and their buttons."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.connections import circuit_breaker
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.web.connections import PER_PAGE
from voiceai_pipeline_tests.support.installation import CEDAR, HARBOR, MAPLE, Installation, Open


def names(html: str) -> list[str]:
    """The users of a list, in order."""
    return re.findall(r'<th role="rowheader" scope="row"><a [^>]+>([^<]+)</a>', html)


def row(html: str, name: str) -> str:
    """The HTML of one user's row."""
    rows = re.findall(r"<tr role=\"row\"[^>]*>.*?</tr>", html, re.DOTALL)
    (found,) = [text for text in rows if f">{name}</a>" in text]
    return re.sub(r"\s+", " ", found)


# The list ----------------------------------------------------------------------------------------


def test_all_users_are_listed_and_those_who_need_action_come_first(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing", "Cedar Vets", "Juniper Fitness")
    installation.connect(HARBOR)
    installation.connect(CEDAR)  # without the scope that calls need
    with installation.visitor() as visitor:
        html = visitor.get().text

    assert names(html) == ["Cedar Vets", "Juniper Fitness", "Maple Plumbing", "Harbor Dental"]
    cedar = row(html, "Cedar Vets")
    assert "needs reconnection: scopes missing" in cedar
    assert "The connection lacks a scope (voice-ai-dashboard.readonly)." in cedar
    assert "then re-authorize with the button here." in cedar
    assert "LocCedarVets000011" in cedar
    assert 'aria-label="Reconnect: Cedar Vets"' in cedar
    harbor = row(html, "Harbor Dental")
    assert 'class="tag good">connected<' in harbor
    assert "America/New_York" in harbor
    assert 'aria-label="Sync now: Harbor Dental"' in harbor
    maple = row(html, "Maple Plumbing")
    assert "never connected" in maple
    assert 'aria-label="Connect: Maple Plumbing"' in maple
    assert "Sync now" not in maple


def test_a_row_shows_the_last_sync_and_why_it_failed(installation: Installation) -> None:
    installation.add("Harbor Dental", "Maple Plumbing", "Cedar Vets")
    an_hour_ago = datetime.now(UTC) - timedelta(minutes=61)
    said = "No valid OAuth connection found. Fix: Reconnect the user: voiceai-pipeline connect USER"
    with installation.pipeline.engine.begin() as db:
        ledger.record_statuses(db, {HARBOR: UserStatus(an_hour_ago, "success", "done", 1)})
        ledger.record_statuses(db, {MAPLE: UserStatus(an_hour_ago, "failure", said, 0)})
    with installation.visitor() as visitor:
        html = visitor.get().text

    assert "1 hour ago, 1 call<" in row(html, "Harbor Dental")
    assert ">failure<" in row(html, "Maple Plumbing")
    assert "No valid OAuth connection found<" in row(html, "Maple Plumbing")
    assert ">never<" in row(html, "Cedar Vets")


def test_a_search_finds_by_name_location_or_id_and_the_filter_keeps_it(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        for wanted in ("harbor", "LocHarborDental", str(HARBOR)):
            assert names(visitor.get(f"/?q={wanted}").text) == ["Harbor Dental"]
        assert names(visitor.get("/?show=attention").text) == ["Maple Plumbing"]
        filtered = visitor.get("/?q=plumb&show=attention").text
        none = visitor.get("/?q=harbor&show=attention").text
        strange = visitor.get("/?q=%3Cscript%3E&page=-3&show=x").text

    assert names(filtered) == ["Maple Plumbing"]
    assert 'href="/?q=plumb"' in filtered
    assert "No user who needs action matches “harbor”." in none
    assert "&lt;script&gt;" in strange
    assert "<script" not in strange


def test_a_long_list_is_shown_a_hundred_at_a_time(installation: Installation) -> None:
    with installation.pipeline.engine.begin() as db:
        for number in range(PER_PAGE + 1):
            connections.add_user(db, UUID(int=number + 1), business_name=f"User {number:03d}")
    with installation.visitor() as visitor:
        first, second = visitor.get("/").text, visitor.get("/?page=2").text
        beyond = visitor.get("/?page=99").text

    assert len(names(first)) == PER_PAGE
    assert names(second) == names(beyond) == ["User 100"]
    assert 'rel="next" href="/?page=2"' in first
    assert 'rel="prev" href="/"' in second


def test_without_users_the_list_says_where_they_come_from(installation: Installation) -> None:
    with installation.visitor() as visitor:
        assert "No users yet" in visitor.get().text


def test_a_name_is_text_and_never_markup(installation: Installation) -> None:
    evil = "<script>alert(1)</script>\"'>"
    with installation.pipeline.engine.begin() as db:
        connections.add_user(db, UUID(int=7), business_name=evil)
    with installation.visitor() as visitor:
        pages = [visitor.get(path).text for path in ("/", f"/users/{UUID(int=7)}")]

    for html in pages:
        assert "<script" not in html
        assert "&lt;script&gt;alert(1)" in html


# Unavailable data --------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["sync_status", "token_circuit"])
def test_an_unreadable_table_hides_no_user(installation: Installation, table: str) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    with installation.pipeline.engine.begin() as db:
        db.execute(sa.text(f"ALTER TABLE {table} RENAME TO gone"))
    with installation.visitor() as visitor:
        html = visitor.get().text
        detail = visitor.get(f"/users/{HARBOR}")

    assert names(html) == ["Harbor Dental", "Maple Plumbing"]
    assert ("Last syncs are unavailable" in html) == (table == "sync_status")
    assert detail.status_code == 200


def test_an_unreadable_history_hides_nothing_else(installation: Installation) -> None:
    installation.add("Harbor Dental")
    with installation.pipeline.engine.begin() as db:
        db.execute(sa.text("ALTER TABLE token_events RENAME TO gone"))
    with installation.visitor() as visitor:
        html = visitor.get(f"/users/{HARBOR}").text

    assert "The history is unavailable" in html
    assert "never connected" in html


def test_a_state_unknown_to_this_version_hides_no_user(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    installation.connect(HARBOR)
    with installation.pipeline.engine.begin() as db:
        db.execute(sa.text("UPDATE api_keys SET connection_state = 'levitating'"))
    with installation.visitor() as visitor:
        html = visitor.get().text

    assert "connected" in row(html, "Harbor Dental")


def test_a_database_without_tables_is_a_page_that_says_what_to_do(
    installation: Installation,
) -> None:
    with installation.pipeline.engine.begin() as db:
        db.execute(sa.text("ALTER TABLE users RENAME TO gone"))
    with installation.visitor() as visitor:
        answer = visitor.get()

    assert answer.status_code == 503
    assert "Create them with: voiceai-pipeline migrate" in answer.text


def test_suspended_refreshes_are_one_banner_with_the_reason_and_the_fix(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    with installation.pipeline.engine.begin() as db:
        for _ in range(circuit_breaker.THRESHOLD):
            circuit_breaker.count_failure(
                db, FailureClass.CLIENT_REFUSED, "HTTP 401", datetime.now(UTC), None
            )
    with installation.visitor() as visitor:
        html = visitor.get().text

    assert html.count("Token refreshes are suspended for all users") == 1
    assert "HighLevel refused this app&#39;s client id or client secret (HTTP 401)" in html
    assert "Correct HIGHLEVEL_CLIENT_ID and HIGHLEVEL_CLIENT_SECRET" in html


# A user's own page -------------------------------------------------------------------------------


def test_a_users_page_answers_why_it_no_longer_works(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    installation.sandbox.world.revoke("LocHarborDental000001")
    with installation.visitor() as visitor:
        tested = visitor.post(f"/users/{HARBOR}/test", {"back": f"/users/{HARBOR}"})

    assert tested.url.endswith(f"/users/{HARBOR}")
    assert "Harbor Dental: connection test failed" in tested.text
    assert "needs reconnection: revoked" in tested.text
    assert "Re-authorize the OAuth connection with the button here." in tested.text
    events = re.findall(r"<td role=\"cell\"><span>([A-Z][^<]+)</span>", tested.text)
    assert events[-1] == "Connected by consent in the browser"
    assert any("The token could not be renewed" in event for event in events)
    assert "connections page" in tested.text
    assert re.search(
        r"voice-ai-dashboard\.readonly</code> <span class=\"tag good\">granted", tested.text
    )


def test_a_missing_scope_is_named_on_the_users_page(installation: Installation) -> None:
    installation.add("Cedar Vets")
    installation.connect(CEDAR)
    with installation.visitor() as visitor:
        html = visitor.get(f"/users/{CEDAR}").text

    assert re.search(r"voice-ai-dashboard\.readonly</code> <span class=\"tag bad\">missing", html)


def test_unknown_users_and_addresses_have_an_error_page(installation: Installation) -> None:
    with installation.visitor() as visitor:
        for path in (f"/users/{UUID(int=99)}", "/users/harbor", "/nothing"):
            answer = visitor.get(path)
            assert answer.status_code == 404
            assert "What to do" in answer.text
        assert visitor.get(f"/users/{HARBOR}/sync").status_code == 405
        installation.add("Harbor Dental")  # whose form has a token
        assert visitor.post(f"/users/{UUID(int=99)}/test").status_code == 404


# Buttons -----------------------------------------------------------------------------------------


def test_a_passed_test_is_shown_once(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        tested = visitor.post(f"/users/{HARBOR}/test", {"back": "/?q=harbor"})
        again = visitor.get("/?q=harbor")

    assert tested.url.endswith("/?q=harbor")
    assert "Harbor Dental: connection test passed" in tested.text
    assert "connection test passed" not in again.text


def test_sync_now_launches_a_run_for_today_and_the_three_days_before(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        pressed = visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})

    (launched,) = installation.dagster.launched
    today = datetime.now(installation.pipeline.zone).date()
    assert launched["selector"]["jobName"] == "sync_users"
    config = launched["runConfigData"]["ops"]["read_user_days"]["config"]
    assert config == {
        "user_ids": [str(HARBOR)],
        "first": str(today - timedelta(days=3)),
        "last": str(today),
    }
    tags = {tag["key"]: tag["value"] for tag in launched["executionMetadata"]["tags"]}
    assert tags == {"voiceai/launched_by": "connections page"}
    assert "Harbor Dental: sync started" in pressed.text
    assert f"{installation.dagster.url}/runs/{installation.dagster.run_ids[0]}" in pressed.text


def test_sync_now_starts_no_earlier_than_the_first_partition(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    today = datetime.now(installation.pipeline.zone).date()
    installation.dagster.first_day = str(today - timedelta(days=1))
    with installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/sync")

    ops = installation.dagster.launched[0]["runConfigData"]["ops"]
    assert ops["read_user_days"]["config"]["first"] == installation.dagster.first_day


def test_a_month_of_one_user_is_re_synced_from_the_users_page(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    today = datetime.now(installation.pipeline.zone).date()
    month_ago = today - timedelta(days=30)
    with installation.visitor() as visitor:
        shown = visitor.get(f"/users/{HARBOR}").text
        assert f'name="first" value="{month_ago}"' in shown
        assert f'name="last" value="{today}"' in shown
        days = {"first": str(month_ago), "last": str(today), "back": f"/users/{HARBOR}"}
        pressed = visitor.post(f"/users/{HARBOR}/sync", days)
        assert f"Dagster is syncing {month_ago} to {today}." in pressed.text
        # The suggested month may start before the first partition.
        installation.dagster.first_day = str(today - timedelta(days=5))
        assert f"Dagster is syncing {today - timedelta(days=5)} to" in visitor.post(
            f"/users/{HARBOR}/sync", days
        ).text  # fmt: skip

        for wrong, sentence in (
            ({"first": "yesterday"}, "Enter each day as YYYY-MM-DD"),
            ({"first": str(today), "last": str(month_ago)}, f"{month_ago} is before {today}."),
            ({"last": str(today + timedelta(days=1))}, "is in the future; today is"),
        ):
            refused = visitor.post(f"/users/{HARBOR}/sync", days | wrong)
            assert "Harbor Dental: sync not started" in refused.text
            assert sentence in refused.text

    asked = [
        launch["runConfigData"]["ops"]["read_user_days"]["config"]
        for launch in installation.dagster.launched
    ]
    assert [(one["user_ids"], one["first"]) for one in asked] == [
        ([str(HARBOR)], str(month_ago)),
        ([str(HARBOR)], str(today - timedelta(days=5))),
    ]


def test_a_user_without_connection_is_not_synced_and_the_page_says_why(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        pressed = visitor.post(f"/users/{HARBOR}/sync")

    assert installation.dagster.launched == []
    assert "No valid OAuth connection found. Reconnect the user with the button" in pressed.text


def test_an_unavailable_dagster_is_a_message(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    installation.dagster.is_down = True
    with installation.visitor() as visitor:
        pressed = visitor.post(f"/users/{HARBOR}/sync")

    assert pressed.status_code == 200
    assert f"Dagster does not respond at {installation.dagster.url}" in pressed.text
    assert "Start it with make up" in pressed.text


def test_disconnect_asks_first_and_keeps_the_user(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        asked = visitor.get(f"/users/{HARBOR}/disconnect?back=/")
        assert installation.connection(HARBOR).label == "connected"
        done = visitor.post(f"/users/{HARBOR}/disconnect", {"back": "/"})

    assert "Disconnect Harbor Dental?" in asked.text
    assert "Harbor Dental is disconnected" in done.text
    assert "disconnected" in row(done.text, "Harbor Dental")
    assert installation.connection(HARBOR).token_expires_at is None


def test_an_action_never_redirects_to_another_site(installation: Installation) -> None:
    installation.add("Harbor Dental")
    elsewhere = (
        "https://evil.test/",
        "//evil.test/",
        "/\\evil.test",
        "/oauth/callback?code=1",
        "/?q=x\r\nSet-Cookie: a=b",
        "x",
    )
    with installation.visitor() as visitor:
        for back in elsewhere:
            pressed = visitor.post(f"/users/{HARBOR}/sync", {"back": back}, follow=False)
            assert pressed.headers["Location"] == "/"
            assert "a" not in pressed.cookies


def test_links_lead_to_dagsters_public_address(open_page: Open) -> None:
    with (
        open_page(VOICEAI_DAGSTER_URL="https://dagster.example.test") as installation,
        installation.visitor() as visitor,
    ):
        html = visitor.get().text

    assert 'href="https://dagster.example.test/assets/call_logs?view=partitions"' in html
