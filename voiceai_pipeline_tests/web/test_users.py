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
from voiceai_pipeline.core import disk
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.web.users import PER_PAGE
from voiceai_pipeline_tests.support.installation import CEDAR, HARBOR, MAPLE, Installation


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
    assert any("Token refresh failed" in event for event in events)
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


def test_the_list_warns_of_a_disk_that_is_nearly_full(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LITTLE_SHARE", 0.0)
    monkeypatch.setattr(disk, "LITTLE", 0)
    with installation.visitor() as visitor:
        assert "The disk is nearly full" not in visitor.get().text
        monkeypatch.setattr(disk, "LITTLE", 2**60)
        assert "The disk is nearly full" in visitor.get().text
