"""The numbers and dates that the UI shows of a day and of a connection."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.calls.queries import Talk
from voiceai_pipeline.core.connection import Connection, ConnectionState, User
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.defs import numbers

DAY = date(2026, 11, 20)
AT = datetime(2026, 11, 20, 8, 12, 3, tzinfo=UTC)
PAGE = PageSettings("127.0.0.1", 8791, "https://voice.test", "https://dagster.test")


def row(number: int, state: DayState, name: str = "", **facts: object) -> DayResult:
    user = User(UUID(int=number), name or f"Shop {number}")
    return DayResult(user, f"Loc{number}", DAY, state, **facts)  # type: ignore[arg-type]


def failed(number: int) -> DayResult:
    why = FailureClass.PROVIDER_ERROR
    message = f"{why.explanation.message}. Fix: {why.explanation.fix}"
    return row(number, DayState.FAILED, failure=why, message=message)


def test_the_summary_comes_before_the_numbers_and_yesterday_first() -> None:
    report = DayReport(DAY, (row(1, DayState.COMPLETE, stored=9),), (failed(2),), (), ())
    facts = numbers.of_status(
        report, PAGE, Talk(12.34, 2), is_open=True, yesterday=report, hours_until_complete=1.26
    )
    assert list(facts)[:4] == [
        "is_yesterday_complete",
        "who_needs_something",
        "is_this_day_complete",
        "hours_until_complete",
    ]
    assert list(facts)[-1] == "all_users"
    assert facts["complete_percent"] == facts["percent_of_all_users"] == 50.0
    assert (facts["calls"], facts["minutes"], facts["trial_calls"]) == (9, 12.3, 2)
    assert facts["hours_until_complete"] == 1.3
    of_a_day = numbers.of_status(report, PAGE, Talk(), is_open=False)
    assert list(of_a_day)[:2] == ["is_this_day_complete", "who_needs_something"]
    assert "is_yesterday_complete" not in of_a_day


def test_users_who_share_a_location_count_its_calls_once() -> None:
    both = tuple(
        DayResult(User(UUID(int=n), f"Owner {n}"), "LocShared", DAY, DayState.COMPLETE, stored=5)
        for n in (1, 2)
    )
    facts = numbers.of_calls(DayReport(DAY, both, (), (), ()), Talk(), ZoneInfo("UTC"))
    assert facts["calls"] == 5
    assert facts["users_complete"] == 2
    assert facts["which_day"].startswith("a day of UTC (VOICEAI_TIMEZONE)")


def test_a_day_that_was_not_read_has_no_numbers_of_calls() -> None:
    facts = numbers.of_status(DayReport(DAY, (), (failed(2),), (), ()), PAGE, Talk(), is_open=False)
    assert not {"calls", "minutes", "trial_calls"} & facts.keys()


def test_a_connection_is_shown_with_its_cause_its_fix_and_its_scopes() -> None:
    connection = Connection(
        User(UUID(int=1), "Spa"),
        ConnectionState.NEEDS_RECONNECT,
        FailureClass.SCOPE_MISSING,
        AT,
        scope="locations.readonly",
        refreshed_at=AT,
    )
    facts = numbers.of_connection(connection, [], PAGE)
    assert facts["state"] == "needs reconnection: scopes missing"
    assert facts["cause"] == "The connection lacks a scope (voice-ai-dashboard.readonly)"
    assert facts["missing_scopes"] == "voice-ai-dashboard.readonly"
    assert f"voiceai-pipeline connect {UUID(int=1)}" in facts["what_to_do"]
    assert facts["refresh_token_ends_unless_used"].value == (AT + timedelta(days=365)).timestamp()
    assert "access_token_expires" not in facts


def test_a_working_connection_has_nothing_to_do() -> None:
    facts = numbers.of_connection(
        Connection(User(UUID(int=1), "Spa"), ConnectionState.CONNECTED, location_id="Loc1"),
        [],
        PAGE,
    )
    assert facts["what_to_do"] == "nothing"
    assert facts["missing_scopes"] == "none"
