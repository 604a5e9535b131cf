"""Old days beside HighLevel's totals: what differs is found, opened once, and mended; nothing else.

Time is the test's: noon of 2026-11-20, the last 30 days read.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.reconciliation import (
    DAYS,
    DayComparison,
    LocationComparison,
    Reconciliation,
    Verdict,
)
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayResult, DayState, Window
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault
from voiceai_pipeline.sandbox.record import RecordedRequest
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.calls.test_sync import retry_at
from voiceai_pipeline_tests.conftest import (
    DEMO,
    NOON,
    Clock,
    Connector,
    highlevel_settings,
    open_client,
)

UTC_ZONE = ZoneInfo("UTC")
NEW_YORK = ZoneInfo("America/New_York")
TODAY = NOON.date()
PAST = [TODAY - timedelta(days=ago) for ago in range(DAYS, 0, -1)]
OLD = TODAY - timedelta(days=12)
MS = timedelta(milliseconds=1)
HEALTHY = [name for name, user in DEMO.items() if user.role in ("healthy", "bad_day")]


def place(name: str) -> str:
    return str(DEMO[name].location_id)


def midnight(day: date, zone: ZoneInfo = UTC_ZONE) -> datetime:
    return Window.of_day(day, zone).start


def noon(day: date) -> datetime:
    return midnight(day) + timedelta(hours=12)


def rows(engine: sa.Engine) -> list[DayResult]:
    with engine.connect() as db:
        return ledger.results(db, days=[TODAY - timedelta(days=40), *PAST, TODAY])


def row(engine: sa.Engine, name: str, day: date) -> DayResult:
    (found,) = [r for r in rows(engine) if r.user.name == name and r.day == day]
    return found


def remembered(engine: sa.Engine) -> set[tuple[str, date]]:
    with engine.connect() as db:
        found = db.execute(sa.text("SELECT location_id, day FROM drifting_days"))
        return {(location_id, day) for location_id, day in found}


def asked(sandbox: RunningSandbox) -> list[RecordedRequest]:
    return [request for request in sandbox.requests if request.path == CALL_LOGS]


def days_of(result: LocationComparison, verdict: Verdict) -> list[date]:
    return [day.day for day in result.days if day.verdict is verdict]


def by_place(results: list[LocationComparison]) -> dict[str, LocationComparison]:
    return {result.location_id: result for result in results}


@pytest.fixture
def reconciliation(
    engine: sa.Engine, tokens: Tokens, client: HighLevelClient, clock: Clock
) -> Reconciliation:
    return Reconciliation(engine, tokens, client, UTC_ZONE, now=clock)


@pytest.fixture
def pine(connect: Connector, sync: Sync, clock: Clock, sandbox: RunningSandbox) -> str:
    """Pine Realty's location, its last 30 days read an hour ago, and no request since."""
    connect("Pine Realty")
    sync.sync_days(PAST)
    clock.now += timedelta(hours=1)
    sandbox.world.clear_requests()
    return place("Pine Realty")


# Found, opened, mended ----------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["arrived", "vanished"])
def test_a_call_that_arrived_or_vanished_in_an_old_day_opens_it_and_the_next_read_mends_it(
    change: str,
    both_dialects: str,
    pine: str,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    calls = sandbox.world.calls.between(pine, midnight(OLD), midnight(OLD) + timedelta(days=1))
    before = len(calls)
    if change == "arrived":
        sandbox.world.calls.add(pine, noon(OLD))
    else:
        sandbox.world.calls.remove(pine, calls[0]["id"])
    total = before + (1 if change == "arrived" else -1)
    with open_client(sandbox.url, clock, both_dialects) as client:
        tokens = Tokens(engine, vault, client, now=clock)
        reconciliation = Reconciliation(engine, tokens, client, UTC_ZONE, now=clock)
        (result,) = reconciliation.reconcile(run_id="run")

        assert days_of(result, Verdict.OPENED) == [OLD]
        assert days_of(result, Verdict.EQUAL) == [day for day in PAST if day != OLD]
        assert DayComparison(OLD, before, total, Verdict.OPENED) in result.days
        opened = row(engine, "Pine Realty", OLD)
        assert (opened.state, opened.failure) == (DayState.FAILED, FailureClass.INCOMPLETE)
        assert f"total {total} now, {before} stored" in opened.message
        assert "Fix: " in opened.message
        assert retry_at(opened) == clock.now + timedelta(minutes=15)
        others = [r for r in rows(engine) if r.day != OLD]
        assert {r.state for r in others} == {DayState.COMPLETE}

        sandbox.world.clear_requests()
        sync = Sync(engine, tokens, client, UTC_ZONE, now=clock)
        (again,) = sync.sync_days(PAST, mode=Mode.ONLY_FAILED)
        assert (again.day, again.state, again.stored) == (OLD, DayState.COMPLETE, total)
        assert (again.new, again.missing) == ((1, 0) if change == "arrived" else (0, 1))

        sandbox.world.clear_requests()
        (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == PAST
    assert remembered(engine) == set()
    assert {r.version for r in asked(sandbox)} == {"v3" if both_dialects == "v3" else "2021-04-15"}


def test_a_call_that_came_back_is_found(
    pine: str,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    """A missing call is kept in the table, and is none of those that HighLevel should count."""
    gone = sandbox.world.calls.add(pine, noon(OLD))
    sync.sync_days([OLD], mode=Mode.REREAD)
    sandbox.world.calls.remove(pine, gone["id"])
    sync.sync_days([OLD], mode=Mode.REREAD)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == PAST
    sandbox.world.calls.add(pine, noon(OLD), id=gone["id"])
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]


def test_equal_totals_open_nothing_and_take_one_small_request_per_location(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    for name in HEALTHY:
        connect(name)
    sync.sync_days(PAST)
    before = rows(engine)
    clock.now += timedelta(hours=1)
    sandbox.world.clear_requests()
    results = reconciliation.reconcile()
    assert Counter(r.location_id for r in asked(sandbox)) == {place(name): 1 for name in HEALTHY}
    assert {r.query["pageSize"] for r in asked(sandbox)} == {"1"}
    assert {result.location_id for result in results} == {place(name) for name in HEALTHY}
    for result in results:
        assert result.failure is None
        assert days_of(result, Verdict.EQUAL) == PAST
    assert rows(engine) == before


def test_days_are_asked_for_one_by_one_only_where_the_window_differs(
    connect: Connector,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    for name in ("Pine Realty", "Harbor Dental"):
        connect(name)
    sync.sync_days(PAST)
    sandbox.world.calls.add(place("Pine Realty"), noon(OLD))
    sandbox.world.clear_requests()
    reconciliation.reconcile()
    assert Counter(r.location_id for r in asked(sandbox)) == {
        place("Pine Realty"): 1 + DAYS,
        place("Harbor Dental"): 1,
    }


# Midnight -----------------------------------------------------------------------------------------


EDGES = [timedelta(seconds=-1), -999 * MS, -2 * MS, -MS, timedelta(), MS, timedelta(seconds=1)]


@pytest.mark.parametrize("zone", [UTC_ZONE, NEW_YORK], ids=str)
@pytest.mark.parametrize("ends", ["inclusive", "exclusive"])
@pytest.mark.parametrize("drifts", [False, True], ids=["nothing drifts", "a day drifts"])
def test_calls_around_midnight_are_no_drift_whatever_the_bounds_mean(
    drifts: bool,
    ends: Any,
    zone: ZoneInfo,
    connect: Connector,
    engine: sa.Engine,
    tokens: Tokens,
    client: HighLevelClient,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    """Midnights between two days that are compared, and those before the first and after the last,
    beyond which nothing is stored. The clocks change in New York on November 1."""
    connect("Quiet Law")
    quiet = place("Quiet Law")
    sandbox.world.date_ends = ends
    read = PAST[5:-5]
    for day in (read[0], date(2026, 11, 1), date(2026, 11, 2), OLD, read[-1] + timedelta(days=1)):
        for edge in EDGES:
            sandbox.world.calls.add(quiet, midnight(day, zone) + edge)
    Sync(engine, tokens, client, zone, now=clock).sync_days(read)
    if drifts:
        sandbox.world.calls.add(quiet, midnight(read[3], zone) + timedelta(hours=1))
    sandbox.world.clear_requests()
    (result,) = Reconciliation(engine, tokens, client, zone, now=clock).reconcile()
    assert [day.day for day in result.days] == read
    assert days_of(result, Verdict.OPENED) == ([read[3]] if drifts else [])
    assert len(asked(sandbox)) == (1 + len(read) if drifts else 1)
    for day in result.days:
        window = Window.of_day(day.day, zone)
        listed = sandbox.world.calls.between(quiet, window.start, window.end)
        assert day.total == len(listed)


@pytest.mark.parametrize("ends", ["inclusive", "exclusive"])
@pytest.mark.parametrize("edge", [timedelta(seconds=-1), -MS, timedelta(), MS], ids=str)
def test_a_call_that_arrives_around_a_midnight_opens_its_day(
    edge: timedelta,
    ends: Any,
    pine: str,
    reconciliation: Reconciliation,
    sync: Sync,
    sandbox: RunningSandbox,
) -> None:
    """Its neighbour may be opened with it where the call lies on the bound itself: that costs one
    read and is over."""
    sandbox.world.date_ends = ends
    new = midnight(OLD) + edge
    sandbox.world.calls.add(pine, new)
    (result,) = reconciliation.reconcile()
    opened = set(days_of(result, Verdict.OPENED))
    assert new.date() in opened
    assert opened <= {OLD - timedelta(days=1), OLD}
    sync.sync_days(PAST, mode=Mode.ONLY_FAILED)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == PAST


# What cannot be said ------------------------------------------------------------------------------


def test_an_answer_without_a_total_says_nothing_and_is_reported_as_that(
    pine: str, engine: sa.Engine, reconciliation: Reconciliation, sandbox: RunningSandbox
) -> None:
    sandbox.world.set_envelope(pine, "no_total")
    sandbox.world.calls.add(pine, noon(OLD))
    before = rows(engine)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.NO_TOTAL) == PAST
    assert {(day.total, day.difference) for day in result.days} == {(None, 0)}
    assert result.failure is None
    assert rows(engine) == before
    assert len(asked(sandbox)) == 1


def test_a_total_of_the_other_spelling_is_a_total(
    pine: str, reconciliation: Reconciliation, sandbox: RunningSandbox
) -> None:
    sandbox.world.set_envelope(pine, "wild")
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == PAST


def test_one_location_that_fails_touches_no_other(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    for name in ("Pine Realty", "Harbor Dental", "Quiet Law"):
        connect(name)
    sync.sync_days(PAST)
    for name in ("Pine Realty", "Harbor Dental", "Quiet Law"):
        sandbox.world.calls.add(place(name), noon(OLD))
    sandbox.world.add_fault(Fault("server_error", place("Harbor Dental")))
    # The window is answered, and the first ten days; then it breaks.
    sandbox.world.add_fault(Fault("server_error", place("Quiet Law"), after=11))
    results = by_place(reconciliation.reconcile())
    assert days_of(results[place("Pine Realty")], Verdict.OPENED) == [OLD]
    for name, compared in (("Harbor Dental", []), ("Quiet Law", PAST[:10])):
        failure = results[place(name)].failure
        assert failure is not None
        assert failure.failure is FailureClass.PROVIDER_ERROR
        assert [day.day for day in results[place(name)].days] == compared
        assert row(engine, name, OLD).state is DayState.COMPLETE


def test_today_and_days_that_are_not_complete_are_not_asked_for(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    connect("Pine Realty")
    sandbox.world.add_fault(Fault("server_error", place("Pine Realty"), day=OLD))
    sync.sync_days([*PAST[10:], TODAY])
    sandbox.world.clear_faults()
    failed = row(engine, "Pine Realty", OLD)
    assert failed.state is DayState.FAILED
    for day in (PAST[0], OLD, TODAY):
        sandbox.world.calls.add(place("Pine Realty"), midnight(day) + timedelta(hours=1))
    sandbox.world.clear_requests()
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.EQUAL) == [day for day in PAST[10:] if day != OLD]
    assert row(engine, "Pine Realty", OLD) == failed
    assert len(asked(sandbox)) == 2  # the days before it, and those after it


def test_nobody_is_asked_about_a_user_who_has_never_been_read_or_cannot_be(
    connect: Connector, reconciliation: Reconciliation, sandbox: RunningSandbox, consent: Consent
) -> None:
    connect.add("Juniper Fitness")
    connect("Harbor Dental")
    consent.disconnect(connect("Pine Realty").user.id)
    sandbox.world.clear_requests()
    (result,) = reconciliation.reconcile()
    assert (result.location_id, result.days, result.failure) == (place("Harbor Dental"), (), None)
    assert asked(sandbox) == []


def test_a_call_set_aside_is_held_too(
    pine: str,
    engine: sa.Engine,
    sync: Sync,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.calls.add(pine, noon(OLD), id="")
    (result,) = sync.sync_days([OLD], mode=Mode.REREAD)
    assert result.set_aside == 1
    (compared,) = reconciliation.reconcile()
    assert days_of(compared, Verdict.EQUAL) == PAST


# Users who share a location -----------------------------------------------------------------------


@pytest.fixture
def sunrise(connect: Connector, sync: Sync, sandbox: RunningSandbox) -> str:
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):
        connect(name)
    sync.sync_days(PAST)
    sandbox.world.clear_requests()
    return place("Sunrise Clinic")


def test_users_who_share_a_location_share_the_request_and_each_has_the_day_opened(
    sunrise: str, engine: sa.Engine, reconciliation: Reconciliation, sandbox: RunningSandbox
) -> None:
    (result,) = reconciliation.reconcile()
    assert len(asked(sandbox)) == 1
    assert days_of(result, Verdict.EQUAL) == PAST
    sandbox.world.calls.add(sunrise, noon(OLD))
    reconciliation.reconcile()
    for name in ("Sunrise Clinic", "Sunrise Front Desk"):
        assert row(engine, name, OLD).state is DayState.FAILED


def test_a_colleagues_token_asks_and_who_is_disconnected_is_left_alone(
    sunrise: str,
    engine: sa.Engine,
    consent: Consent,
    reconciliation: Reconciliation,
    sandbox: RunningSandbox,
) -> None:
    with engine.begin() as db:
        db.execute(
            sa.text(
                "UPDATE api_keys SET refresh_token = 'INVENTED-REVOKED', token_expires_at = NULL "
                "WHERE user_id = :id"
            ),
            {"id": DEMO["Sunrise Clinic"].id},
        )
    sandbox.world.calls.add(sunrise, noon(OLD))
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]

    consent.disconnect(UUID(DEMO["Sunrise Clinic"].id))
    earlier = OLD - timedelta(days=2)
    sandbox.world.calls.add(sunrise, noon(earlier))
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [earlier]
    assert row(engine, "Sunrise Front Desk", earlier).state is DayState.FAILED
    assert row(engine, "Sunrise Clinic", earlier).state is DayState.COMPLETE


def test_a_paused_location_waits_for_all_who_share_it(
    sunrise: str, reconciliation: Reconciliation, sandbox: RunningSandbox
) -> None:
    sandbox.world.pause(sunrise)
    (result,) = reconciliation.reconcile()
    assert result.failure is not None
    assert result.failure.failure is FailureClass.LOCATION_PAUSED
    sandbox.world.clear_requests()
    assert reconciliation.reconcile() == []
    assert asked(sandbox) == []


# No day is opened for ever ------------------------------------------------------------------------


class Boastful(HighLevelClient):
    """Sees a total for OLD that is greater than what HighLevel lists."""

    more = 1

    def call_total(
        self, token: Secret, location_id: str, start: datetime, end: datetime
    ) -> int | None:
        total = super().call_total(token, location_id, start, end)
        return total + self.more if total is not None and start < noon(OLD) < end else total


@pytest.fixture
def boastful(sandbox: RunningSandbox) -> Iterator[Boastful]:
    with Boastful(highlevel_settings(sandbox.url)) as client:
        yield client


def test_a_difference_that_a_new_read_confirms_is_shown_and_not_opened_again_until_it_changes(
    pine: str,
    engine: sa.Engine,
    tokens: Tokens,
    sync: Sync,
    boastful: Boastful,
    clock: Clock,
) -> None:
    reconciliation = Reconciliation(engine, tokens, boastful, UTC_ZONE, now=clock)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]
    clock.now += timedelta(minutes=16)
    (again,) = sync.sync_days(PAST, mode=Mode.ONLY_FAILED)
    assert again.state is DayState.COMPLETE

    for _ in range(3):
        clock.now += timedelta(hours=1)
        (result,) = reconciliation.reconcile()
        assert days_of(result, Verdict.CONTRADICTED) == [OLD]
        assert [day.difference for day in result.days if day.difference] == [1]
        assert row(engine, "Pine Realty", OLD).state is DayState.COMPLETE

    boastful.more = 2
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]

    clock.now += timedelta(days=30)
    reconciliation.reconcile()
    assert remembered(engine) == set()


def test_a_read_that_began_before_the_day_was_opened_confirms_nothing(
    pine: str,
    engine: sa.Engine,
    tokens: Tokens,
    boastful: Boastful,
    clock: Clock,
) -> None:
    reconciliation = Reconciliation(engine, tokens, boastful, UTC_ZONE, now=clock)
    before = row(engine, "Pine Realty", OLD)
    reconciliation.reconcile()
    clock.now += timedelta(minutes=1)
    with engine.begin() as db:
        ledger.record(db, [replace(before, finished_at=clock.now)], None)
    (result,) = reconciliation.reconcile()
    assert days_of(result, Verdict.OPENED) == [OLD]


def test_a_read_that_ends_while_the_total_is_under_way_counts_for_more(
    pine: str,
    engine: sa.Engine,
    tokens: Tokens,
    sync: Sync,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    class Overtaken(HighLevelClient):
        def call_total(
            self, token: Secret, location_id: str, start: datetime, end: datetime
        ) -> int | None:
            total = super().call_total(token, location_id, start, end)
            sandbox.world.calls.add(pine, noon(OLD))
            clock.now += timedelta(seconds=1)
            sync.sync_days([OLD], mode=Mode.REREAD)
            return total

    with Overtaken(highlevel_settings(sandbox.url)) as client:
        (result,) = Reconciliation(engine, tokens, client, UTC_ZONE, now=clock).reconcile()
    assert days_of(result, Verdict.OPENED) == []
    assert row(engine, "Pine Realty", OLD).state is DayState.COMPLETE


def test_a_bug_of_ours_is_the_failure_of_its_location_only_and_quotes_nothing(
    pine: str, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    class Buggy(HighLevelClient):
        def call_total(
            self, token: Secret, location_id: str, start: datetime, end: datetime
        ) -> int | None:
            raise KeyError("INVENTED-TRANSCRIPT")

    with Buggy(highlevel_settings(sandbox.url)) as client:
        (result,) = Reconciliation(engine, tokens, client, UTC_ZONE, now=clock).reconcile()
    assert result.failure is not None
    assert result.failure.failure is FailureClass.INTERNAL
    assert "INVENTED" not in str(result.failure)
