"""The checks: sentences about the data that are true or name what is wrong, why and what to do.

Those of ``call_logs`` are recorded at the end of every sync, about the days it read; that on
``user_tokens`` whenever connections are, and by itself. Whether users are up to date is decided by
the clock and lives in ``freshness.py``; what was compared with HighLevel's totals, with its asset.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.calls import queries as call_queries
from voiceai_pipeline.calls import volume_anomalies
from voiceai_pipeline.calls.day_status import DayReport
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections import token_store
from voiceai_pipeline.core.call import ACTION_TYPES
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.foreign_text import NAME_LENGTH
from voiceai_pipeline.defs import check_texts, texts
from voiceai_pipeline.defs.markdown import shown

NAME: Final = "no_connection_needs_a_person"

EVERYBODY_IS_COMPLETE: Final = "every_connected_user_is_complete"
NOBODY_WAITS: Final = "no_user_waits_for_a_person"
NOTHING_IS_SET_ASIDE: Final = "no_call_was_set_aside"
NO_CALL_TWICE: Final = "no_call_is_stored_twice"
ACTIONS_ARE_KNOWN: Final = "every_action_type_is_known"
VOLUME_IS_USUAL: Final = "volume_is_within_its_usual_band"

OF_CALLS: Final = [
    dg.AssetCheckSpec(
        EVERYBODY_IS_COMPLETE,
        asset="call_logs",
        description="Of the days that were read last: every user who can be synced has all calls "
        "that HighLevel lists.",
    ),
    dg.AssetCheckSpec(
        NOBODY_WAITS,
        asset="call_logs",
        description="No user has to reconnect or be re-enabled before calls can be read.",
    ),
    dg.AssetCheckSpec(
        NOTHING_IS_SET_ASIDE,
        asset="call_logs",
        description="Every call that arrived could be stored as a call.",
    ),
    dg.AssetCheckSpec(
        NO_CALL_TWICE,
        asset="call_logs",
        # Every number over several locations would count it twice.
        blocking=True,
        description="No call is stored under two locations. Within one the table's key forbids it.",
    ),
    dg.AssetCheckSpec(
        ACTIONS_ARE_KNOWN,
        asset="call_logs",
        description="Every action in the calls is of a type that HighLevel documents.",
    ),
    dg.AssetCheckSpec(
        VOLUME_IS_USUAL,
        asset="call_logs",
        description="Yesterday, and every other day that was read, has about as many calls as the "
        f"same weekday of the last {volume_anomalies.WEEKS} weeks, at each location and all "
        f"together. Silent with fewer than {volume_anomalies.MIN_WEEKS} weeks to compare with.",
    ),
]


def of_calls(
    engine: sa.Engine, zone: ZoneInfo, reports: Sequence[DayReport], today: date
) -> Iterator[dg.AssetCheckResult]:
    """What the checks of ``call_logs`` say after these days were read."""
    yield _everybody_is_complete(reports)
    yield _nobody_waits(reports)
    yield _nothing_is_set_aside(reports)
    window = Window(
        Window.of_day(reports[0].day, zone).start, Window.of_day(reports[-1].day, zone).end
    )
    # Today has not had all its calls yet. Yesterday is there even if only today was read: else
    # what is odd about it would be shown for two hours.
    days = {report.day for report in reports if report.day < today} | {today - timedelta(days=1)}
    is_strange = any(row.unknown_actions for report in reports for row in report.complete)
    with engine.begin() as db:
        twice = call_queries.calls_at_several_locations(db, window)
        types = call_queries.action_types(db, window, ACTION_TYPES) if is_strange else {}
        counts = call_queries.calls_by_day(db, volume_anomalies.days_needed(days), zone)
        names = {
            person.location_id: person.location_name or person.location_id
            for person in connections.all_connections(db)
            if person.location_id
        }
    yield dg.AssetCheckResult(
        check_name=NO_CALL_TWICE,
        passed=not twice,
        severity=dg.AssetCheckSeverity.ERROR,
        description=check_texts.twice_text(twice, names) if twice else "Every call is stored once.",
        metadata={"calls_at_several_locations": len(twice)},
    )
    yield dg.AssetCheckResult(
        check_name=ACTIONS_ARE_KNOWN,
        passed=not types,
        severity=dg.AssetCheckSeverity.WARN,
        description=check_texts.types_text(types) if types else "Every action type is known.",
        metadata={"unknown_types": len(types), "unknown_actions": sum(types.values())},
    )
    judged = volume_anomalies.judge(counts, days)
    odd = [one for one in judged if not one.is_usual]
    together = [one for one in judged if one.location_id is None]
    yield dg.AssetCheckResult(
        check_name=VOLUME_IS_USUAL,
        passed=not odd,
        severity=dg.AssetCheckSeverity.WARN,
        description=check_texts.volume_text(judged, names),
        metadata={
            "compared": len(judged),
            "unusual": len(odd),
            **(
                {
                    "day": str(together[-1].day),
                    "calls": together[-1].calls,
                    "usual_from": together[-1].band.low,
                    "usual_to": together[-1].band.high,
                }
                if together
                else {}
            ),
        },
    )


def _everybody_is_complete(reports: Sequence[DayReport]) -> dg.AssetCheckResult:
    failed = [row for report in reports for row in report.failed]
    unread = {user.name for report in reports for user in report.unread}
    incomplete = len({row.user.id for row in failed}) + len(unread)
    return dg.AssetCheckResult(
        check_name=EVERYBODY_IS_COMPLETE,
        passed=not failed and not unread,
        severity=dg.AssetCheckSeverity.ERROR,
        description=texts.failure_text(failed, shown)
        if failed
        else f"{incomplete} users have not been read yet: "
        f"{', '.join(shown(name, NAME_LENGTH) for name in sorted(unread))}."
        if unread
        else "Everybody who can be synced is complete.",
        metadata={"failed": len({row.user.id for row in failed}), "not_tried": len(unread)},
    )


def _nobody_waits(reports: Sequence[DayReport]) -> dg.AssetCheckResult:
    waiting = [row for report in reports for row in report.waiting]
    people = {row.user.id for row in waiting}
    return dg.AssetCheckResult(
        check_name=NOBODY_WAITS,
        passed=not waiting,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(people)} users wait for a person:\n\n"
        f"{check_texts.waiting_text(waiting)}\n\n"
        "Their days are kept as waiting and filled by themselves once they are back."
        if waiting
        else "Nobody waits for a person.",
        metadata={"waiting": len(people)},
    )


def _nothing_is_set_aside(reports: Sequence[DayReport]) -> dg.AssetCheckResult:
    aside = {
        (row.location_id, row.day): row.set_aside for report in reports for row in report.complete
    }
    return dg.AssetCheckResult(
        check_name=NOTHING_IS_SET_ASIDE,
        passed=not any(aside.values()),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{sum(aside.values())} calls could not be stored as calls. They are kept with "
        "their reasons in the table set_aside_calls."
        if any(aside.values())
        else "Every call could be stored.",
        metadata={"set_aside": sum(aside.values())},
    )


# Connections -------------------------------------------------------------------------------------


@dg.asset_check(
    asset="user_tokens",
    name=NAME,
    description="No user has to reconnect, no location is paused, and no renewal keeps failing.",
)
def no_connection_needs_a_person(
    database: dg.ResourceParam[sa.Engine],
) -> dg.AssetCheckResult:
    with database.begin() as db:
        return outcome(connections.all_connections(db))


def outcome(people: Sequence[Connection]) -> dg.AssetCheckResult:
    """The check's result for ``people``: a warning at most, for a rerun cannot help."""
    in_need = [person for person in people if _needs_person(person)]
    states = Counter(person.status for person in people)
    return dg.AssetCheckResult(
        asset_key="user_tokens",
        check_name=NAME,
        passed=not in_need,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(in_need)} of {len(people)} users need a person:\n\n"
        f"{check_texts.connections_text(in_need)}"
        if in_need
        else "No connection needs a person.",
        metadata={
            "need_a_person": len(in_need),
            **{state.value: count for state, count in sorted(states.items())},
        },
    )


def evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """The same for whoever is not the check: Dagster takes it as an event of a run or a tick."""
    assert result.asset_key is not None  # noqa: S101 - our results name it
    assert result.check_name is not None  # noqa: S101 - likewise
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )


def _needs_person(connection: Connection) -> bool:
    """Whoever was disconnected by hand, or has never been connected, needs nobody: that may be
    what is wanted."""
    return (
        connection.state in (ConnectionState.NEEDS_RECONNECT, ConnectionState.PAUSED)
        or connection.failed_attempts >= token_store.ATTENTION_AFTER
    )
