"""The asset checks: each passes, or says what is wrong, why and what to do.

The checks of ``call_logs`` are evaluated at the end of every sync, for the days it read. The check
of ``user_tokens`` is evaluated whenever connections are recorded, and can be run alone. The check
of users' freshness is in ``freshness_check.py``, that of HighLevel's totals in ``assets.py``.
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
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.foreign_text import NAME_LENGTH
from voiceai_pipeline.defs import check_texts, texts
from voiceai_pipeline.defs.markdown import shown

NAME: Final = "no_connection_needs_a_person"

EVERY_USER_IS_COMPLETE: Final = "every_connected_user_is_complete"
NO_USER_WAITS: Final = "no_user_waits_for_a_person"
NOTHING_IS_SET_ASIDE: Final = "no_call_was_set_aside"
NO_CALL_TWICE: Final = "no_call_is_stored_twice"
ACTIONS_ARE_KNOWN: Final = "every_action_type_is_known"
VOLUME_IS_USUAL: Final = "volume_is_within_its_usual_band"

OF_CALLS: Final = [
    dg.AssetCheckSpec(
        EVERY_USER_IS_COMPLETE,
        asset="call_logs",
        description="On the days read last, every connected user has all calls that HighLevel "
        "lists.",
    ),
    dg.AssetCheckSpec(
        NO_USER_WAITS,
        asset="call_logs",
        description="No user has to reconnect, be re-enabled or be resumed before calls are read.",
    ),
    dg.AssetCheckSpec(
        NOTHING_IS_SET_ASIDE,
        asset="call_logs",
        description="Every call that arrived could be stored as a call.",
    ),
    dg.AssetCheckSpec(
        NO_CALL_TWICE,
        asset="call_logs",
        # Every total over several locations would count such a call twice.
        blocking=True,
        description="No call is stored under two locations. Within one, the table's key "
        "prevents it.",
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
        f"same weekday of the last {volume_anomalies.WEEKS} weeks, at each location and in "
        f"total. Passes with fewer than {volume_anomalies.MIN_WEEKS} weeks of history.",
    ),
]


def of_calls(
    engine: sa.Engine, zone: ZoneInfo, reports: Sequence[DayReport], today: date
) -> Iterator[dg.AssetCheckResult]:
    """The results of the checks of ``call_logs`` after a sync.

    Args:
        zone: the pipeline's time zone, which defines the days.
        reports: the days that were read, in order.
        today: the current day in ``zone``.
    """
    yield _every_user_is_complete(reports)
    yield _no_user_waits(reports)
    yield _nothing_is_set_aside(reports)
    window = Window(
        Window.of_day(reports[0].day, zone).start, Window.of_day(reports[-1].day, zone).end
    )
    # Today is not over. Yesterday is always judged: otherwise a sync of today alone would replace
    # its warning.
    days = {report.day for report in reports if report.day < today} | {today - timedelta(days=1)}
    is_strange = any(row.unknown_actions for report in reports for row in report.complete)
    with engine.begin() as db:
        twice = call_queries.calls_at_several_locations(db, window)
        types = call_queries.action_types(db, window, ACTION_TYPES) if is_strange else {}
        counts = call_queries.calls_by_day(db, volume_anomalies.days_needed(days), zone)
        names = {
            connection.location_id: connection.location_name or connection.location_id
            for connection in connections.all_connections(db)
            if connection.location_id
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


def _every_user_is_complete(reports: Sequence[DayReport]) -> dg.AssetCheckResult:
    failed = [row for report in reports for row in report.failed]
    unread = {user.name for report in reports for user in report.unread}
    incomplete = len({row.user.id for row in failed}) + len(unread)
    return dg.AssetCheckResult(
        check_name=EVERY_USER_IS_COMPLETE,
        passed=not failed and not unread,
        severity=dg.AssetCheckSeverity.ERROR,
        description=texts.failure_text(failed, shown)
        if failed
        else f"{incomplete} users have not been synced yet: "
        f"{', '.join(shown(name, NAME_LENGTH) for name in sorted(unread))}."
        if unread
        else "Every connected user is complete.",
        metadata={"failed": len({row.user.id for row in failed}), "not_tried": len(unread)},
    )


def _no_user_waits(reports: Sequence[DayReport]) -> dg.AssetCheckResult:
    waiting = [row for report in reports for row in report.waiting]
    user_ids = {row.user.id for row in waiting}
    paused = {user.id for report in reports for user in report.paused}
    return dg.AssetCheckResult(
        check_name=NO_USER_WAITS,
        passed=not waiting,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{check_texts.needing(len(user_ids) - len(paused), len(paused))}:\n\n"
        f"{check_texts.waiting_text(waiting)}\n\n"
        "Their days are kept as waiting and are synced automatically once this is fixed."
        if waiting
        else "No user needs action.",
        metadata={"waiting": len(user_ids), "paused": len(paused)},
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
    description="No user has to reconnect, no location is paused, and no token refresh keeps "
    "failing.",
)
def no_connection_needs_a_person(
    database: dg.ResourceParam[sa.Engine],
) -> dg.AssetCheckResult:
    with database.begin() as db:
        return outcome(connections.all_connections(db))


def outcome(all_connections: Sequence[Connection]) -> dg.AssetCheckResult:
    """The check's result: a warning at most, because a rerun cannot help."""
    needing_action = [one for one in all_connections if token_store.needs_action(one)]
    states = Counter(connection.status for connection in all_connections)
    return dg.AssetCheckResult(
        asset_key="user_tokens",
        check_name=NAME,
        passed=not needing_action,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(needing_action)} of {len(all_connections)} users need action:\n\n"
        f"{check_texts.connections_text(needing_action)}"
        if needing_action
        else "No connection needs action.",
        metadata={
            "need_a_person": len(needing_action),
            "syncs_paused": sum(one.pause is not None for one in all_connections),
            **{state.value: count for state, count in sorted(states.items())},
        },
    )


def evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """The result as an event that a run or a tick can record without executing the check."""
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
