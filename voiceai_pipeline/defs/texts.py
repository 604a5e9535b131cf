"""The sentences and tables that the UI shows for days, connections and failed runs.

Pure: nothing is read or recorded here. The texts of the checks are in ``check_texts``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Final

from voiceai_pipeline.calls.day_status import DayReport, span
from voiceai_pipeline.calls.reconciliation import DayComparison, LocationComparison, Verdict
from voiceai_pipeline.connections.circuit_breaker import Circuit
from voiceai_pipeline.connections.history import Entry, TokenEvent
from voiceai_pipeline.core.connection import User
from voiceai_pipeline.core.days import DayResult, DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError, for_user
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, SENTENCE_LENGTH, cleaned
from voiceai_pipeline.core.settings import PageSettings
from voiceai_pipeline.defs import markdown
from voiceai_pipeline.defs.markdown import Markup, Shown, shown

LINES: Final = 50
"""How many users a text or table names."""

NAMES: Final = 10
"""How many users a line names."""

ROOM: Final = 400
"""Characters that the names in a line may take, escapes included."""

EVENTS: Final = 10
"""How many events of a connection its cell shows."""

SHOWN_AT_ONCE: Final = 999
"""Characters of Markdown that Dagster's UI shows without a click, at most."""


def answer(report: DayReport, page: PageSettings, *, is_open: bool = False) -> str:
    """Whether a day is complete, in a sentence or two; if not, which users are missing. Users who
    need action or are paused are always counted, and named if the day is green."""
    day = f"{report.day:%A} {report.day}{' so far' if is_open else ''}"
    if report.not_kept and not report.users:
        return f"**No longer kept.** {NOT_KEPT} {day} is neither missing nor empty."
    if not report.users:
        return f"**Nothing to sync.** There are no users yet on {day}."
    of_all = f"{report.complete_percent_of_all} % of all users"
    count = f"{day}: {_complete_for(report)}"
    if not report.able:
        return f"**No, {of_all}.** {count}."
    of_able = f"{report.complete_percent} % of the {report.able} who can be synced"
    if report.is_green:
        whom = "all" if not report.waiting else f"all {report.able} who can be synced"
        who = some_names([one.user for one in report.waiting], shown)
        rest = f" ({of_all}): {who}" if report.waiting else ""
        return f"**Yes, for {whom}.** {count}{rest}."
    missing = [row.user for row in report.failed] + list(report.unread)
    return (
        f"**No, {of_able}; {of_all}.** {count}. "
        f"Missing: {some_names(missing, shown)}. "
        f"[Re-sync this day]({day_link(page, report.day)}): Materialize, Launch; "
        "only the missing users are read."
    )


NOT_KEPT: Final = (
    "The calls of this day were deleted because of their age (VOICEAI_KEEP_CALLS_DAYS); its "
    "numbers in the marts stay."
)


def _complete_for(report: DayReport) -> str:
    """How many users are complete, how many need action, and how many are paused."""
    count = f"complete for {len(report.complete)} of {report.users} users"
    paused = len(report.paused)
    if needing := len(report.waiting) - paused:
        count += f"; {needing} need{'s' * (needing == 1)} action"
    return f"{count}; {paused} paused" if paused else count


def needs_text(report: DayReport) -> str:
    """The users that are not complete, grouped by cause, with the fix: a list short enough for the
    UI to show without a click. Empty if there are none."""
    groups: dict[tuple[str, str, str], list[User]] = {}
    for row in (*report.failed, *report.waiting):
        known = row.failure.explanation if row.failure else None
        why = known.message if known else "unknown"
        fix = known.fix.partition(": voiceai-pipeline")[0] if known else "See the run"
        is_paused = row.failure is FailureClass.SYNC_PAUSED
        state = "paused" if is_paused else _STATE[row.state]
        groups.setdefault((state, why, fix), []).append(row.user)
    lines = [
        f"- **{some_names(users, shown)}** {state}: {why}. {fix}."
        for (state, why, fix), users in groups.items()
    ]
    if report.unread:
        lines.append(f"- **{some_names(report.unread, shown)}** not tried yet: Sync the day.")
    kept = len(lines)
    while kept:
        rest = [f"- and {len(lines) - kept} more causes: see all_users"]
        text = "\n".join(lines if kept == len(lines) else [*lines[:kept], *rest])
        if len(text) <= SHOWN_AT_ONCE:
            return text
        kept -= 1
    return ""


_STATE: Final = {DayState.FAILED: "failed", DayState.WAITING: "needs action"}


def day_link(page: PageSettings, day: date) -> str:
    """The page of Dagster's UI that re-syncs the day, with the day selected."""
    return f"{page.dagster_url}/assets/call_logs?view=partitions&partition={day}"


def differences_table(places: Sequence[LocationComparison]) -> str:
    """Every day that differs, and every location or day that could not be compared."""
    rows = [_differing(place, day) for place in places for day in place.days if day.difference]
    rows += [
        {"location": shown(place.name, NAME_LENGTH), "day": "", "HighLevel": None,
         "stored": None, "difference": None, "what follows": shown(str(place.failure))}
        for place in places
        if place.failure is not None
    ]  # fmt: skip
    silent = {
        place: [day.day for day in place.days if day.verdict is Verdict.NO_TOTAL]
        for place in places
    }
    rows += [
        {"location": shown(place.name, NAME_LENGTH), "day": span(days), "HighLevel": None,
         "stored": None, "difference": None,
         "what follows": "HighLevel gave no total: cannot be compared"}
        for place, days in silent.items()
        if days
    ]  # fmt: skip
    rest = f"\n\nand {len(rows) - LINES} more" if len(rows) > LINES else ""
    return rows_table(rows[:LINES]) + rest if rows else "Nothing differs."


FOLLOWS: Final = {
    Verdict.OPENED: "the day is red until it is re-synced, which happens automatically",
    Verdict.CONTRADICTED: "re-synced, and HighLevel lists exactly the stored calls: its total "
    "contradicts its list; report this to HighLevel",
}


def _differing(place: LocationComparison, day: DayComparison) -> dict[str, Any]:
    return {
        "location": shown(place.name, NAME_LENGTH),
        "day": str(day.day),
        "HighLevel": day.total,
        "stored": day.stored,
        "difference": Markup(f"{day.difference:+}"),
        "what follows": FOLLOWS[day.verdict],
    }


def history_table(events: Sequence[Entry], page: PageSettings) -> str:
    """What happened to a connection, newest first."""
    rows = [
        {
            "when (UTC)": f"{event.at:%Y-%m-%d %H:%M:%S}",
            "what happened": _without_reason(event).sentence,
            "by": event.actor,
            "run": Markup(f"[{event.run_id[:8]}]({page.dagster_url}/runs/{event.run_id})")
            if event.run_id
            else "",
        }
        for event in events
    ]
    return rows_table(rows) if rows else "Nothing is recorded yet."


def _without_reason(event: Entry) -> Entry:
    """The event without an operator's own words, because Dagster keeps metadata forever."""
    return replace(event, detail="") if event.event is TokenEvent.SYNC_PAUSED else event


def refresh_failure_text(failed: Mapping[User, PipelineError], total: int, circuit: Circuit) -> str:
    """The text of a failed refresh run, as plain text: how many tokens, whose, why and what to do.
    A cause shared by all users is stated once."""
    shared = [
        user
        for user, error in failed.items()
        if circuit.is_open and error.failure is circuit.reason
    ]
    groups: dict[str, list[User]] = {}
    for user, error in failed.items():
        if user not in shared:
            groups.setdefault(str(error), []).append(user)
    lines = [f"{len(failed)} of {total} tokens could not be refreshed; none was lost:"]
    if shared:
        lines.append(f"- {some_names(shared, cleaned)}: {cleaned(circuit_text(circuit))}")
    lines += at_most(
        [
            f"- {some_names(users, cleaned)}: "
            f"{cleaned(for_user(why, users[0].id) if len(users) == 1 else why)}"
            for why, users in groups.items()
        ]
    )
    return "\n".join(lines)


def circuit_text(circuit: Circuit) -> str:
    """Why token refresh is suspended for all users, since when, and what to do."""
    why = PipelineError(circuit.reason, circuit.detail) if circuit.reason else "unknown reason."
    since = f" since {_utc(circuit.opened_at)}" if circuit.opened_at else ""
    after = (
        f" The next attempt is at {_utc(circuit.next_probe_at)}." if circuit.next_probe_at else ""
    )
    return f"token refresh is suspended for all users{since}: {why}{after}"


def users_table(report: DayReport) -> str:
    """All users: failed first, then those that need action, those not tried, and the complete."""
    all_users: Sequence[DayResult | User]
    all_users = [*report.failed, *report.waiting, *report.unread, *report.complete]
    # With ten thousand users, only the rows that are shown are formatted.
    rows = [_cells(one) for one in all_users[:LINES]]
    rest = f"\n\nand {len(all_users) - LINES} more" if len(all_users) > LINES else ""
    if report.not_kept:
        rest += f"\n\nNo longer kept for {len(report.not_kept)} users."
    return rows_table(rows) + rest if rows else rest.strip() or "No users yet."


def failure_text(
    outcomes: Sequence[DayResult],
    medium: Shown,
    unread: Mapping[User, Collection[date]] = MappingProxyType({}),
) -> str:
    """The text of a red run or check: how many users, their names, the days, why and what to do.

    Args:
        unread: days that were not tried, by user.
    """
    failed = [row for row in outcomes if row.state is DayState.FAILED]
    by_reason: dict[tuple[str, str], list[date]] = {}
    for row in failed:
        by_reason.setdefault((row.user.name, message_for(row)), []).append(row.day)
    for user, untried in unread.items():
        by_reason[user.name, "Not synced yet."] = list(untried)
    users = {row.user.id for row in failed}.union(user.id for user in unread)
    days = {row.day for row in failed}.union(*unread.values())
    lines = [
        f"{len(users)} user{'s' * (len(users) != 1)} "
        f"{('is' if len(users) == 1 else 'are') + ' not complete' if unread else 'failed'} on "
        f"{len(days)} day{'s' * (len(days) != 1)}; other users are not affected."
    ]
    lines += at_most(
        [
            f"- {medium(name, NAME_LENGTH)}, {span(sorted(set(its_days)))}: "
            f"{medium(why, SENTENCE_LENGTH)}"
            for (name, why), its_days in by_reason.items()
        ]
    )
    lines.append("")
    lines.append(
        'To retry, materialize these days with "Failed and missing": only the users that failed '
        "are read."
    )
    return "\n".join(lines)


def at_most(lines: Sequence[str], where: str = ": voiceai-pipeline users") -> list[str]:
    """The first lines, and how many more there are: Dagster keeps every line forever."""
    rest = len(lines) - LINES
    return [*lines[:LINES], *([f"- and {rest} more{where}"] if rest > 0 else [])]


def message_for(row: DayResult) -> str:
    return f"{for_user(row.message.rstrip('.'), row.user.id)}."


def some_names(users: Sequence[User], medium: Shown) -> str:
    """At least one name, as many more as fit, and the number of the rest."""
    names: list[str] = []
    for user in users[:NAMES]:
        # Invisible characters leave an empty name, and empty bold shows its asterisks.
        name = medium(user.name, NAME_LENGTH) or str(user.id)
        if names and len(", ".join([*names, name])) > ROOM:
            break
        names.append(name)
    rest = len(users) - len(names)
    return f"{', '.join(names)} and {rest} more" if rest > 0 else ", ".join(names)


def _utc(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def _cells(one: DayResult | User) -> dict[str, Any]:
    if isinstance(one, User):
        return {
            "user": shown(one.name, NAME_LENGTH),
            "state": "not tried",
            "calls": None,
            _WORDS: "",
        }
    return {
        "user": shown(one.user.name, NAME_LENGTH),
        "state": one.state.value,
        "calls": one.stored,
        _WORDS: message_for(one) if one.message else "",
    }


_WORDS: Final = "what happened, what to do"


def rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of rows that have the same names."""
    return "\n".join(markdown.table(list(rows[0]), [list(row.values()) for row in rows]))
