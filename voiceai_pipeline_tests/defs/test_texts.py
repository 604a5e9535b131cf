"""The sentences and tables that users read in the UI."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.connections.circuit_breaker import Circuit
from voiceai_pipeline.connections.history import Entry, TokenEvent
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.foreign_text import cleaned
from voiceai_pipeline.core.percent import percent
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.defs import texts

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


def entry(event: TokenEvent, run_id: str | None = None, **facts: object) -> Entry:
    known: dict[str, object] = {"state": None, "reason": None, "detail": "", "actor": "dagster"}
    known |= {"version_before": None, "version_after": None, "trace_id": None}
    return Entry(at=AT, event=event, run_id=run_id, **(known | facts))  # type: ignore[arg-type]


CLOSED = Circuit(0, None, "", None, None, None, None)


def test_a_red_run_says_how_many_users_failed_which_when_why_and_what_to_do() -> None:
    text = texts.failure_text([failed(1), row(2, DayState.COMPLETE, stored=3)], cleaned)
    assert "1 user failed on 1 day; other users are not affected." in text
    assert "- Shop 1, 2026-11-20: HighLevel answered with a server error. Fix: No action" in text
    assert "Shop 2" not in text
    assert '"Failed and missing"' in text


def test_a_thousand_failures_are_counted_and_fifty_are_named() -> None:
    text = texts.failure_text([failed(number) for number in range(1000)], cleaned)
    assert "1000 users failed" in text
    assert text.count("- Shop") == 50
    assert "and 950 more" in text


def test_a_day_says_whether_it_is_complete_which_users_are_missing_and_where_to_re_sync_it() -> (
    None
):
    waiting = row(3, DayState.WAITING, "Spa", failure=FailureClass.LOCATION_PAUSED)
    report = DayReport(
        DAY, (row(1, DayState.COMPLETE),), (failed(2),), (waiting,), (User(UUID(int=4), "New"),)
    )
    text = texts.answer(report, PAGE)
    assert text.startswith(
        "**No, 33.3 % of the 3 who can be synced; 25.0 % of all users.** Friday 2026-11-20: "
        "complete for 1 of 4 users; 1 needs action. "
    )
    assert "Missing: Shop 2, New." in text
    assert f"(https://dagster.test/assets/call_logs?view=partitions&partition={DAY})" in text

    done = DayReport(DAY, (row(1, DayState.COMPLETE),), (), (), ())
    assert texts.answer(done, PAGE) == (
        "**Yes, for all.** Friday 2026-11-20: complete for 1 of 1 users."
    )
    assert "2026-11-20 so far: " in texts.answer(done, PAGE, is_open=True)
    able = DayReport(DAY, (row(1, DayState.COMPLETE),), (), (waiting, waiting), ())
    assert texts.answer(able, PAGE) == (
        "**Yes, for all 1 who can be synced.** Friday 2026-11-20: complete for 1 of 3 users; "
        "2 need action (33.3 % of all users): Spa, Spa."
    )
    unable = DayReport(DAY, (), (), (waiting,), ())
    assert texts.answer(unable, PAGE) == (
        "**No, 0.0 % of all users.** Friday 2026-11-20: complete for 0 of 1 users; 1 needs action."
    )
    assert texts.answer(DayReport(DAY, (), (), (), ()), PAGE).startswith("**Nothing to sync.**")


def test_paused_users_are_counted_and_named_apart_from_those_who_need_action() -> None:
    rest = row(3, DayState.WAITING, "Rest", failure=FailureClass.SYNC_PAUSED)
    spa = row(4, DayState.WAITING, "Spa", failure=FailureClass.LOCATION_PAUSED)
    both = DayReport(DAY, (row(1, DayState.COMPLETE),), (), (rest, spa), ())
    assert "complete for 1 of 3 users; 1 needs action; 1 paused (33.3 % of" in texts.answer(
        both, PAGE
    )
    assert (
        "- **Rest** paused: An operator has paused the user's syncs. Resume the user."
        in texts.needs_text(both)
    )
    alone = DayReport(DAY, (row(1, DayState.COMPLETE),), (), (rest,), ())
    assert "complete for 1 of 2 users; 1 paused" in texts.answer(alone, PAGE)


def test_percentages_are_rounded_half_up() -> None:
    done = tuple(row(number, DayState.COMPLETE) for number in range(2))
    report = DayReport(DAY, done, (failed(9),), (), ())
    assert report.complete_percent == Decimal("66.7")
    assert [percent(n, 200) for n in (1, 3, 5, -1)] == [1, 2, 3, -1]
    assert percent(1, 16, 1) == Decimal("6.3")


def test_a_day_is_never_100_percent_while_one_of_thousands_is_missing() -> None:
    complete = tuple(row(number, DayState.COMPLETE) for number in range(9_999))
    assert DayReport(DAY, complete, (failed(1),), (), ()).complete_percent == Decimal("99.9")
    assert DayReport(DAY, complete, (), (), ()).complete_percent == 100


def test_what_to_do_is_said_once_per_cause_and_fits_what_the_ui_shows_at_once() -> None:
    report = DayReport(
        DAY,
        (row(1, DayState.COMPLETE),),
        (failed(2), failed(3)),
        (row(4, DayState.WAITING, "Spa", failure=FailureClass.REFRESH_REJECTED),),
        (User(UUID(int=5), "New"),),
    )
    red, waits, unread = texts.needs_text(report).splitlines()
    assert red.startswith("- **Shop 2, Shop 3** failed: HighLevel answered with a server error. N")
    assert waits.startswith("- **Spa** needs action: Failed to refresh token. Re-authorize")
    assert "voiceai-pipeline" not in waits
    assert unread.startswith("- **New** not tried yet")
    assert texts.needs_text(DayReport(DAY, (), (), (), ())) == ""

    crowd = [
        row(n, DayState.FAILED, f"Shop {n} " + "x" * 60, failure=reason)
        for n, reason in enumerate(list(FailureClass) * 12)
    ]
    text = texts.needs_text(DayReport(DAY, (), tuple(crowd), (), ()))
    assert len(text) <= texts.SHOWN_AT_ONCE
    shown = len(text.splitlines()) - 1
    assert shown > 0
    assert text.endswith(f"- and {len(FailureClass) - shown} more causes: see all_users")


def test_the_table_puts_users_who_need_action_first_and_survives_a_pipe_in_a_name() -> None:
    report = DayReport(
        DAY, (row(1, DayState.COMPLETE, "Fine | Dandy", stored=7),), (failed(2),), (), ()
    )
    lines = texts.users_table(report).splitlines()
    assert lines[2].startswith("|Shop 2|")
    assert "|Fine \\| Dandy|" in lines[3]
    assert "|7|" in lines[3]


def test_a_day_without_users_has_a_table_that_says_so() -> None:
    assert texts.users_table(DayReport(DAY, (), (), (), ())) == "No users yet."


def test_a_history_says_when_what_by_which_actor_and_in_which_run() -> None:
    run_id = "0f4c3b2a-0000-4000-8000-000000000000"
    table = texts.history_table(
        [
            entry(TokenEvent.REFRESH_FAILED, run_id, reason=FailureClass.REFRESH_REJECTED),
            entry(TokenEvent.CONNECTED, actor="page", detail="a|b"),
        ],
        PAGE,
    )
    head, _, newest, oldest = table.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "when (UTC)",
        "what happened",
        "by",
        "run",
    ]
    assert "2026-11-20 08:12:03" in newest
    assert "Token refresh failed: Failed to refresh token" in newest
    assert f"[0f4c3b2a](https://dagster.test/runs/{run_id})" in newest
    assert "page" in oldest
    assert "a\\|b" in oldest
    assert texts.history_table([], PAGE) == "Nothing is recorded yet."


def test_a_red_refresh_says_the_same_reason_once_and_names_its_users() -> None:
    down = PipelineError(FailureClass.PROVIDER_ERROR, "503 POST /oauth/token")
    failed = {User(UUID(int=n), f"Shop {n}"): down for n in range(12)}
    failed[User(UUID(int=99), "Spa")] = PipelineError(FailureClass.TOKEN_UNREADABLE)
    text = texts.refresh_failure_text(failed, 40, CLOSED)
    assert text.startswith("13 of 40 tokens could not be refreshed; none was lost:\n")
    assert text.count("HighLevel answered with a server error (503 POST /oauth/token)") == 1
    assert "- Shop 0, Shop 1," in text
    assert "Shop 9 and 2 more: HighLevel answered" in text
    assert "- Spa: The stored token cannot be decrypted. Fix: Put the key" in text
    assert f"voiceai-pipeline connect {UUID(int=99)}" in text


def test_suspended_refreshes_are_said_once_whatever_each_users_message_was() -> None:
    failed = {
        User(UUID(int=n), f"Shop {n}"): PipelineError(FailureClass.CLIENT_REFUSED, f"trace {n}")
        for n in range(500)
    }
    circuit = Circuit(5, FailureClass.CLIENT_REFUSED, "401 POST /oauth/token", AT, AT, AT, None)
    text = texts.refresh_failure_text(failed, 500, circuit)
    assert len(text.splitlines()) == 2
    assert (
        "Shop 9 and 490 more: token refresh is suspended for all users since 2026-11-20 08:12 "
        "UTC: HighLevel refused this app's client id or client secret (401 POST /oauth/token). Fix:"
    ) in text
    assert text.endswith("The next attempt is at 2026-11-20 08:12 UTC.")
