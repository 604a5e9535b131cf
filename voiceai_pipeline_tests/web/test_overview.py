"""The overview on top of the first page."""

import re
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psutil
import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_counts import DayCounts
from voiceai_pipeline.calls.red_days import causes_of_days
from voiceai_pipeline.connections import alerts, circuit_breaker
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.web import overview
from voiceai_pipeline_tests.support.installation import HARBOR, MAPLE, Installation

DAY = date(2026, 11, 24)
NONE_CAN = "No user can be synced"


@pytest.mark.parametrize(
    ("complete", "failed", "waiting", "unread", "tone", "answer", "detail"),
    [
        (8, 0, 0, 0, "good", "Yes", "complete for 8 of 8 users"),
        (8, 0, 1, 0, "warn", "Yes", "complete for 8 of 9 users; 1 needs action"),
        (7, 1, 3, 0, "bad", "No", "complete for 7 of 11 users; 3 need action. 1 failed"),
        (7, 0, 0, 1, "plain", "Not yet", "complete for 7 of 8 users. 1 not synced yet"),
        (0, 0, 2, 0, "warn", NONE_CAN, "complete for 0 of 2 users; 2 need action"),
        (0, 0, 0, 0, "plain", NONE_CAN, "complete for 0 of 0 users"),
    ],
)  # fmt: skip
def test_a_day_answers_for_how_many_of_how_many(
    complete: int, failed: int, waiting: int, unread: int, tone: str, answer: str, detail: str
) -> None:
    day = overview.day_of(DayCounts(DAY, False, complete, failed, waiting, unread))
    assert (day.tone, day.answer, day.detail) == (tone, answer, detail)


def test_paused_users_are_counted_apart_from_those_who_need_action() -> None:
    day = overview.day_of(DayCounts(DAY, False, 6, 0, 3, 0, paused=2))
    said = "complete for 6 of 9 users; 1 needs action; 2 paused"
    assert (day.tone, day.answer, day.detail) == ("warn", "Yes", said)


def test_a_day_that_is_not_over_is_complete_so_far() -> None:
    assert overview.day_of(DayCounts(DAY, True, 8, 0, 0, 0)).answer == "Yes, so far"


def page(installation: Installation, path: str = "/") -> str:
    with installation.visitor() as visitor:
        answer = visitor.get(path)
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))


def test_the_first_page_answers_without_dagster(installation: Installation) -> None:
    installation.dagster.is_down = True
    installation.add("Harbor Dental", "Maple Plumbing")
    for user_id in (HARBOR, MAPLE):
        installation.connect(user_id)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    record(installation, HARBOR, yesterday, DayState.COMPLETE)
    record(installation, MAPLE, yesterday, DayState.FAILED)

    shown = page(installation)

    assert "Is yesterday complete? No" in shown
    assert f"{yesterday}: complete for 1 of 2 users. 1 failed." in shown
    assert "Schedules and sensors Running" in shown
    assert "Token refreshes Working" in shown
    assert "Alerts None open; shown in Dagster only" in shown
    for reader in ("Analysts:", "Operators:", "New here:"):
        assert reader in shown
    why = "Maple Plumbing : HighLevel answered with a server error"
    assert f"{yesterday:%A} {yesterday} is red. {why}" in shown
    # A search shows the list alone.
    assert "Is yesterday complete?" not in page(installation, "/?q=harbor")


def record(installation: Installation, user_id: UUID, day: date, state: DayState) -> None:
    one = installation.connection(user_id)
    result = DayResult(
        one.user,
        one.location_id or "",
        day,
        state,
        failure=FailureClass.PROVIDER_ERROR if state is DayState.FAILED else None,
        read_until=Window.of_day(day, installation.pipeline.zone).end,
    )
    with installation.pipeline.engine.begin() as db:
        ledger.record(db, [result], None)


def test_a_red_day_names_who_is_missing_by_cause(installation: Installation) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    day = datetime.now(UTC).date() - timedelta(days=2)
    for user_id in (HARBOR, MAPLE):
        installation.connect(user_id)
        record(installation, user_id, day, DayState.FAILED)
    with installation.pipeline.engine.begin() as db:
        users = connections.all_connections(db)
        found = causes_of_days(db, users, [day, day - timedelta(days=1)])
    assert found.keys() == {day}
    (cause,) = found[day]
    assert (cause.failure, cause.more) == (FailureClass.PROVIDER_ERROR, 0)
    assert [user.name for user in cause.users] == ["Harbor Dental", "Maple Plumbing"]
    with installation.visitor() as visitor:
        html = visitor.get("/").text
    assert f"/assets/call_logs?view=partitions&amp;partition={day}" in html
    assert f'href="/users/{MAPLE}">Maple Plumbing</a>' in html


TWO_THOUSAND = """
INSERT INTO users (id, business_name) SELECT gen_random_uuid(), 'Business ' || n
FROM generate_series(1, 2000) AS n;
INSERT INTO api_keys (id, user_id, service, location_id, access_token, refresh_token,
                      token_expires_at, is_active, connection_state)
SELECT gen_random_uuid(), id, 'highlevel', 'Loc' || id, 'enc:v2:test:x', 'enc:v2:test:y',
       now() + interval '1 day', true, 'connected' FROM users;
INSERT INTO sync_status (id, service, user_id, last_sync_status, records_synced)
SELECT gen_random_uuid(), 'highlevel', id, 'success', 5 FROM users;
INSERT INTO sync_ledger (user_id, location_id, day, state, api_total, stored, read_until)
SELECT user_id, location_id, day::date, 'complete', 5, 5, day + interval '1 day'
FROM api_keys, generate_series(current_date - 30, current_date, interval '1 day') AS day;
ANALYZE;
"""


def test_the_first_page_of_two_thousand_users_takes_less_than_300_ms(
    installation: Installation,
) -> None:
    """In CPU time of this process and of the server, so that what else the machine does is of no
    account; of three times the shortest."""
    with installation.pipeline.engine.begin() as db:
        db.exec_driver_sql(TWO_THOUSAND)
        (folder,) = db.execute(sa.text("SHOW data_directory")).one()
    server = psutil.Process(int((Path(folder) / "postmaster.pid").read_text().splitlines()[0]))

    def spent() -> float:
        backends = [one.cpu_times() for one in server.children()]
        return time.process_time() + sum(one.user + one.system for one in backends)

    with installation.visitor() as visitor:
        took = []
        for _ in range(4):
            before = spent()
            assert "complete for 2000 of 2000 users" in visitor.get().text
            took.append(spent() - before)
    assert min(took) < 0.3


def test_what_is_not_well_says_so(installation: Installation) -> None:
    ago = datetime.now(UTC) - timedelta(hours=3)
    with installation.pipeline.engine.begin() as db:
        alerts.open_(db, None, FailureClass.DAGSTER_SILENT, ago, subject=alerts.DAEMON)
        for _ in range(circuit_breaker.THRESHOLD):
            circuit_breaker.count_failure(db, FailureClass.CLIENT_REFUSED, "HTTP 401", ago, None)
        found = overview.read(db, installation.site, [])
        late = overview._alerts(db, ["webhook"], alerts.open_problems(db), datetime.now(UTC))

    signs = {sign.name: (sign.tone, sign.text) for sign in found.signs}
    assert signs["Schedules and sensors"][0] == "bad"
    assert "No sign of life for 3 hours." in signs["Schedules and sensors"][1]
    assert signs["Token refreshes"] == ("bad", "Suspended for all users; see above.")
    assert late.tone == "bad"
    assert "not delivered by webhook" in late.text


def test_the_list_is_there_where_the_overview_cannot_be(installation: Installation) -> None:
    installation.add("Harbor Dental")
    with installation.pipeline.engine.begin() as db:
        db.execute(sa.text("ALTER TABLE sync_ledger RENAME TO gone"))
    shown = page(installation)
    assert "Is yesterday complete?" not in shown
    assert "Harbor Dental" in shown
