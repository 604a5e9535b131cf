"""The sentences and tables people read in the UI."""

from datetime import UTC, date, datetime
from uuid import UUID

from voiceai_pipeline.day_report import DayReport
from voiceai_pipeline.defs import metadata
from voiceai_pipeline.models import (
    Connection,
    ConnectionState,
    DayResult,
    DayState,
    FailureClass,
    User,
)

DAY = date(2026, 11, 20)


def row(number: int, state: DayState, name: str = "", **facts: object) -> DayResult:
    user = User(UUID(int=number), name or f"Shop {number}")
    return DayResult(user, f"Loc{number}", DAY, state, **facts)  # type: ignore[arg-type]


def failed(number: int) -> DayResult:
    why = FailureClass.PROVIDER_ERROR
    message = f"{why.explanation.message}. Fix: {why.explanation.fix}"
    return row(number, DayState.FAILED, failure=why, message=message)


def test_a_red_run_says_how_many_who_when_why_and_what_to_do() -> None:
    text = metadata.failure_text([failed(1), row(2, DayState.COMPLETE, stored=3)])
    assert "1 user failed on 1 day; the calls of everybody else are stored." in text
    assert "- Shop 1, 2026-11-20: HighLevel answered with a server error. Fix: Wait" in text
    assert "Shop 2" not in text
    assert '"Failed and missing"' in text


def test_a_thousand_failures_are_counted_and_fifty_are_named() -> None:
    text = metadata.failure_text([failed(number) for number in range(1000)])
    assert "1000 users failed" in text
    assert text.count("- Shop") == 50
    assert "and 950 more" in text


def test_the_summary_names_everybody_who_is_not_complete() -> None:
    waiting = row(3, DayState.WAITING, "Spa", failure=FailureClass.LOCATION_PAUSED)
    report = DayReport(
        DAY, (row(1, DayState.COMPLETE),), (failed(2),), (waiting,), (User(UUID(int=4), "New"),)
    )
    text = metadata.summary(report)
    assert "**1 of 3** users who can be synced are complete." in text
    assert "**Failed:** Shop 2 (HighLevel answered with a server error)." in text
    assert "**Not tried yet:** New." in text
    assert "**Waiting for a person:** Spa (HighLevel has paused the location" in text


def test_the_table_puts_those_first_who_need_something_and_survives_a_pipe_in_a_name() -> None:
    report = DayReport(
        DAY, (row(1, DayState.COMPLETE, "Fine | Dandy", stored=7),), (failed(2),), (), ()
    )
    lines = metadata.table(report).splitlines()
    assert lines[2].startswith("| Shop 2")
    assert "Fine \\| Dandy" in lines[3]
    assert " 7 " in lines[3]


def test_users_who_share_a_location_count_its_calls_once() -> None:
    both = tuple(
        DayResult(User(UUID(int=n), f"Owner {n}"), "LocShared", DAY, DayState.COMPLETE, stored=5)
        for n in (1, 2)
    )
    facts = metadata.of_calls(DayReport(DAY, both, (), (), ()))
    assert facts["calls"] == 5
    assert facts["users_complete"] == 2


def test_a_day_without_users_has_a_table_that_says_so() -> None:
    assert metadata.table(DayReport(DAY, (), (), (), ())) == "No users yet."


def test_a_connection_is_shown_with_its_fix_and_without_tokens() -> None:
    connection = Connection(
        User(UUID(int=1), "Spa"),
        ConnectionState.NEEDS_RECONNECT,
        FailureClass.REFRESH_REJECTED,
        datetime(2026, 11, 20, tzinfo=UTC),
    )
    facts = metadata.of_connection(connection)
    assert facts["state"] == "needs_reconnect"
    assert "Failed to refresh token. Fix: Re-authorize" in facts["what_to_do"]
    assert not [key for key in facts if "token" in key and key != "token_version"]
