"""The first page: the list, its filters, and its buttons for several users."""

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
from voiceai_pipeline.web.user_list import PER_PAGE
from voiceai_pipeline_tests.support.installation import CEDAR, HARBOR, MAPLE, Installation
from voiceai_pipeline_tests.support.listed_users import names, row

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
    assert "<script>" not in strange


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
        assert "<script>" not in html
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


def test_the_list_warns_of_a_disk_that_is_nearly_full(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LITTLE_SHARE", 0.0)
    monkeypatch.setattr(disk, "LITTLE", 0)
    with installation.visitor() as visitor:
        assert "The disk is nearly full" not in visitor.get().text
        monkeypatch.setattr(disk, "LITTLE", 2**60)
        assert "The disk is nearly full" in visitor.get().text


# Filters and buttons for several users -----------------------------------------------------------


def fail(installation: Installation, *user_ids: UUID) -> None:
    """Let the last syncs of these users be failures."""
    with installation.pipeline.engine.begin() as db:
        failure = UserStatus(datetime.now(UTC), "failure", "HighLevel did not answer", 0)
        ledger.record_statuses(db, dict.fromkeys(user_ids, failure))


def test_each_filter_shows_its_users_and_counts_them(installation: Installation) -> None:
    installation.add("Harbor Dental", "Maple Plumbing", "Cedar Vets")
    installation.connect(HARBOR)
    fail(installation, HARBOR, CEDAR)
    with installation.visitor() as visitor:
        shown = {
            key: names(visitor.get(f"/?show={key}").text)
            for key in ("attention", "failed", "unconnected", "running")
        }
        visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})
        running = visitor.get("/?show=running").text
        failed = names(visitor.get("/?show=failed").text)
        here = names(visitor.get("/?location=LocHarborDental000001").text)

    assert shown == {
        "attention": ["Cedar Vets", "Maple Plumbing"],
        "failed": ["Cedar Vets", "Harbor Dental"],
        "unconnected": ["Cedar Vets", "Maple Plumbing"],
        "running": [],
    }
    assert names(running) == here == ["Harbor Dental"]
    assert "Syncing <span>1</span>" in running
    assert failed == ["Cedar Vets"]  # a sync that may fix it is under way


def test_all_that_failed_are_synced_again_by_one_run_for_their_failed_days(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing", "Cedar Vets")
    for user_id in (HARBOR, MAPLE):
        installation.connect(user_id)
    fail(installation, HARBOR, MAPLE, CEDAR)
    with installation.pipeline.engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO sync_ledger (user_id, location_id, day, state, attempt) "
                "VALUES (:user, 'LocHarborDental000001', '2026-01-09', 'failed', 1)"
            ),
            {"user": HARBOR},
        )
    with installation.visitor() as visitor:
        done = visitor.post("/failed/sync", {"back": "/?show=failed"})

    (launched,) = installation.dagster.launched
    config = launched["runConfigData"]["ops"]["read_user_days"]["config"]
    assert config["first"] == config["last"] == "2026-01-09"
    assert set(config["user_ids"]) == {str(HARBOR), str(MAPLE)}
    assert "Sync of 2 users started" in done.text
    assert "1 user left out: action is needed first" in done.text


def test_checked_users_are_synced_and_those_under_way_are_left_alone(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    for user_id in (HARBOR, MAPLE):
        installation.connect(user_id)
    with installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})
        both = {f"user:{HARBOR}": "on", f"user:{MAPLE}": "on"}
        done = visitor.post("/chosen/sync", {"back": "/", **both})
        none = visitor.post("/chosen/sync", {"back": "/"})

    config = installation.dagster.launched[-1]["runConfigData"]["ops"]["read_user_days"]["config"]
    assert config["user_ids"] == [str(MAPLE)]
    assert "Sync of 1 user started" in done.text
    assert "1 user being synced already" in done.text
    assert none.status_code == 422
    assert "No user is chosen" in none.text


def test_checked_users_are_disconnected_only_after_a_second_click(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    installation.connect(HARBOR)
    chosen = {"back": "/", f"user:{HARBOR}": "on"}
    with installation.visitor() as visitor:
        asked = visitor.post("/chosen/disconnect", chosen)
        assert installation.connection(HARBOR).can_sync
        done = visitor.post("/chosen/disconnect", {**chosen, "sure": "yes"})

    assert "Disconnect 1 user?" in asked.text
    assert "Harbor Dental" in asked.text
    assert "1 user disconnected" in done.text
    assert not installation.connection(HARBOR).can_sync


def test_a_hundred_boxes_fit_into_a_form(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    boxes = {f"user:{UUID(int=number)}": "on" for number in range(PER_PAGE - 1)}
    with installation.visitor() as visitor:
        done = visitor.post("/chosen/sync", {"back": "/", f"user:{HARBOR}": "on", **boxes})

    assert "Sync of 1 user started" in done.text
