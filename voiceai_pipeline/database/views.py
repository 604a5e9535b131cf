"""The schema ``voiceai``: views for analysts with their own tools.

A view reads with its owner's rights, so an analyst needs none on the tables, and tokens stay out of
reach. Which role may read which view is in ``grants.py``. Names are stable and columns are only
appended: PostgreSQL cannot replace a view otherwise, and users' queries depend on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.database import share_queries
from voiceai_pipeline.database.captured_values import CAPTURED_COMMENTS, CAPTURED_VALUES
from voiceai_pipeline.database.fact_tables import CALLER_PSEUDONYM, OUTCOME, call_facts
from voiceai_pipeline.database.period_tables import ALL_MARTS
from voiceai_pipeline.database.tables import (
    agents,
    call_logs,
    locations,
    sync_ledger,
    sync_pauses,
)
from voiceai_pipeline.database.view_sources import SCHEMA, SYNCS, USERS, function, sql
from voiceai_pipeline.database.whole_call import WHOLE_ITEM


@dataclass(frozen=True)
class View:
    """A view of the schema.

    Attributes:
        comments: comments of columns, where that of the table's column does not fit.
        is_content: whether the view shows what callers said, or who they are.
    """

    name: str
    comment: str
    query: sa.Select[Any]
    comments: Mapping[str, str] = field(default_factory=dict)
    is_content: bool = False

    @property
    def full_name(self) -> str:
        return f"{SCHEMA}.{self.name}"

    @property
    def columns(self) -> dict[str, str]:
        """The comment of each column.

        Raises:
            KeyError: a column has none.
        """
        return {
            column.name: self.comments.get(column.name) or _comments_of(column)
            for column in self.query.selected_columns
        }

    @property
    def statement(self) -> str:
        return f"CREATE OR REPLACE VIEW {self.full_name} AS\n{sql(self.query)}"


def _comments_of(column: sa.ColumnElement[Any]) -> str:
    source = column.element if isinstance(column, sa.Label) else column
    if isinstance(source, sa.Column) and source.comment:
        return source.comment
    raise KeyError(f"{column} has no comment")


# The queries -------------------------------------------------------------------------------------

_connection = function(USERS).alias("connection")

COUNTED: Final = sa.and_(call_logs.c.is_trial.is_not(True), call_logs.c.missing_since.is_(None))
"""What metrics count: no trial calls, and no calls that HighLevel no longer lists."""

ACTION_TYPES: Final = sa.func.jsonb_path_query_array(
    call_logs.c.executed_call_actions, sa.text("'$[*].actionType'")
).label("action_types")

IS_AGENT_DELETED: Final = sa.or_(
    call_logs.c.is_agent_deleted, agents.c.missing_since.is_not(None)
).label("is_agent_deleted")
"""According to the call or the list of agents; NULL: neither says."""

LOCATION_NAME: Final = sa.func.coalesce(locations.c.name, call_logs.c.location_id)
CALLS_WITH_NAMES: Final = (
    call_logs.outerjoin(locations, locations.c.location_id == call_logs.c.location_id)
    .outerjoin(
        agents,
        sa.and_(
            agents.c.location_id == call_logs.c.location_id,
            agents.c.agent_id == call_logs.c.agent_id,
        ),
    )
    .outerjoin(
        call_facts,
        sa.and_(
            call_facts.c.location_id == call_logs.c.location_id,
            call_facts.c.call_id == call_logs.c.call_id,
        ),
    )
)
"""Calls with their location and agent, if known, and what was derived from them so far."""

CALL_COMMENTS: Final = {
    "location_name": "The location's name, else its id.",
    "location_timezone": "IANA name; started_at AT TIME ZONE location_timezone is the local time.",
    "agent_name": "The latest name from HighLevel; a deleted agent keeps it. NULL: never listed.",
    "is_agent_deleted": "HighLevel no longer lists the agent, or the call says it was deleted.",
    "action_types": "The agent's actions, as a JSON array of HighLevel's types.",
    "outcome": "Derived, by the first rule that holds (docs/metrics.md): goal, transferred, "
    "follow_up, data_taken, answered, unclear or no_conversation; not_final: it may still change.",
    "caller_pseudonym": "The same text for each call of a caller (docs/metrics.md) at a location, "
    "for counting distinct and returning callers; it reveals no number or contact. NULL: the "
    "caller is unknown or withheld, or the facts are not derived yet (is_engaged is NULL too).",
}

CALL_CONTENT: Final = (
    call_logs.c.contact_id,
    call_logs.c.from_number,
    call_logs.c.summary,
    call_logs.c.transcript,
    call_logs.c.extracted_data,
    call_logs.c.executed_call_actions,
    call_logs.c.translation,
    call_logs.c.message_id,
)
"""What was said and by whom."""

_CALL_FACTS: Final = (
    _connection.c.user.label("user_id"),
    _connection.c.user_name,
    call_logs.c.location_id,
    LOCATION_NAME.label("location_name"),
    sa.func.coalesce(locations.c.timezone, _connection.c.location_timezone).label(
        "location_timezone"
    ),
    call_logs.c.call_id,
    call_logs.c.agent_id,
    agents.c.name.label("agent_name"),
    call_logs.c.started_at,
    call_logs.c.duration_seconds,
    IS_AGENT_DELETED,
    ACTION_TYPES,
    call_logs.c.first_seen_at,
    call_logs.c.last_changed_at,
)
DERIVED: Final = (
    OUTCOME,
    call_facts.c.caller_turns,
    call_facts.c.is_engaged,
    call_facts.c.is_goal_reached,
    call_facts.c.is_transferred,
    call_facts.c.is_data_captured,
)
"""Facts derived from a call; all but the outcome are NULL until they are derived."""

COUNTED_BY: Final = (call_facts.c.local_day, call_facts.c.local_hour, CALLER_PSEUDONYM)
"""Columns by which analysts without access to content count calls."""

_CALLS: Final = sa.select(*_CALL_FACTS).select_from(
    # Calls of a location without a user stay, with no user.
    CALLS_WITH_NAMES.outerjoin(_connection, _connection.c.location_id == call_logs.c.location_id)
)
_USER: Final = {
    "user_id": "Never changes; names may.",
    "user_name": "Business name, else first and last name, else id.",
}


def _for_user(text: sa.ColumnElement[str], user_id: sa.ColumnElement[Any]) -> Any:
    """Like ``failures.for_user``: puts the user's id into commands, so that they can be copied."""
    return sa.func.replace(
        text, sa.literal(" USER"), sa.literal(" ").concat(sa.cast(user_id, sa.Text))
    )


_message = _for_user(sync_ledger.c.message, sync_ledger.c.user_id)
_FIX: Final = sa.literal(". Fix: ")

_SYNC_DAYS: Final = sa.select(
    sync_ledger.c.user_id,
    _connection.c.user_name,
    sync_ledger.c.location_id,
    sync_ledger.c.day,
    sync_ledger.c.state,
    sync_ledger.c.failure_class,
    sa.func.split_part(_message, _FIX, 1).label("message"),
    sa.func.nullif(sa.func.split_part(_message, _FIX, 2), "").label("fix"),
    sync_ledger.c.read_until,
    sync_ledger.c.api_total,
    sync_ledger.c.stored,
    sync_ledger.c.new_calls,
    sync_ledger.c.changed_calls,
    sync_ledger.c.missing_calls,
    sync_ledger.c.set_aside_calls,
    sync_ledger.c.unknown_actions,
    sync_ledger.c.pages,
    sync_ledger.c.attempt,
    sync_ledger.c.run_id,
    sync_ledger.c.started_at,
    sync_ledger.c.finished_at,
).select_from(sync_ledger.join(_connection, _connection.c.user == sync_ledger.c.user_id))

# Like connection.Connection.sync_obstacle; a test holds both equal.
_obstacle = sa.case(
    (sync_pauses.c.user_id.is_not(None), FailureClass.SYNC_PAUSED.value),
    (
        _connection.c.state.in_(
            [ConnectionState.NEVER_CONNECTED.value, ConnectionState.DISCONNECTED.value]
        ),
        FailureClass.NO_CONNECTION.value,
    ),
    (
        _connection.c.state.in_(
            [ConnectionState.PAUSED.value, ConnectionState.NEEDS_RECONNECT.value]
        ),
        sa.func.coalesce(_connection.c.connection_reason, FailureClass.REFRESH_REJECTED.value),
    ),
    (sa.func.coalesce(_connection.c.location_id, "") == "", FailureClass.NO_LOCATION.value),
)
_judged = (
    sa.select(
        *(
            _connection.c[name]
            for name in (
                "user",
                "user_name",
                "state",
                "connection_since",
                "location_id",
                "location_name",
                "location_timezone",
                "company_id",
            )
        ),
        _obstacle.is_(None).label("can_sync"),
        sa.func.coalesce(_obstacle, _connection.c.last_failure).label("failure_class"),
        sync_pauses.c.since.label("syncs_paused_since"),
        sync_pauses.c.paused_by.label("syncs_paused_by"),
        sync_pauses.c.reason.label("syncs_paused_because"),
    )
    .select_from(_connection.outerjoin(sync_pauses, sync_pauses.c.user_id == _connection.c.user))
    .subquery("judged")
)

_last_sync = function(SYNCS).alias("last_sync")

_CONNECTIONS: Final = sa.select(
    _judged.c.user.label("user_id"),
    _judged.c.user_name,
    _judged.c.state,
    _judged.c.can_sync,
    _judged.c.failure_class,
    sa.case(
        {one.value: one.explanation.message for one in FailureClass}, value=_judged.c.failure_class
    ).label("message"),
    _for_user(
        sa.case(
            {one.value: one.explanation.fix for one in FailureClass}, value=_judged.c.failure_class
        ),
        _judged.c.user,
    ).label("fix"),
    _judged.c.connection_since,
    _judged.c.location_id,
    _judged.c.location_name,
    _judged.c.location_timezone,
    _judged.c.company_id,
    _last_sync.c.last_sync_at,
    _last_sync.c.last_sync_status,
    _for_user(_last_sync.c.last_sync_message, _judged.c.user).label("last_sync_message"),
    _last_sync.c.records_synced,
    *(_judged.c[f"syncs_paused_{name}"] for name in ("since", "by", "because")),
).select_from(_judged.outerjoin(_last_sync, _last_sync.c.user_id == _judged.c.user))

_APPENDED: Final = (
    "calls_with_unknown_speakers",
    "outcome_rules",
    "caller_turns",
    "peak_concurrent_calls",
)
"""Columns of marts that are newer than their view, in the order in which they were added."""


def _mart(mart: sa.Table) -> sa.Select[Any]:
    old = [column for column in mart.columns if column.name not in _APPENDED]
    return sa.select(*old, *(mart.c[name] for name in _APPENDED if name in mart.c))


VIEWS: Final = (
    View(
        "calls",
        "Calls that metrics count, with a row for each user who sees the call: a call belongs to a "
        "location, and all users of a shared location see it; user_id is NULL if no user has the "
        "location any more. Trial calls and calls that HighLevel no longer lists are left out.",
        _CALLS.where(COUNTED).add_columns(*DERIVED, *COUNTED_BY),
        _USER | CALL_COMMENTS,
    ),
    View(
        "all_calls",
        "Like calls, but with trial calls and calls that HighLevel no longer lists.",
        _CALLS.add_columns(call_logs.c.is_trial, call_logs.c.missing_since, *DERIVED, *COUNTED_BY),
        _USER | CALL_COMMENTS,
    ),
    View(
        "call_contents",
        "What was said and by whom, a row for each call of all_calls: join by location_id and "
        "call_id.",
        sa.select(
            call_logs.c.location_id,
            call_logs.c.call_id,
            call_logs.c.started_at,
            *CALL_CONTENT,
            WHOLE_ITEM,
        ),
        {"raw": "The whole item as HighLevel lists it, redacted."},
        is_content=True,
    ),
    View(
        "captured_values",
        "The values that agents captured, with a row for each that is not empty: count them to "
        "find the most frequent. Includes trial calls and calls that HighLevel no longer lists: "
        "join calls to exclude them.",
        CAPTURED_VALUES,
        CAPTURED_COMMENTS,
        is_content=True,
    ),
    View(
        "sync_days",
        "Whether a day is complete for a user, and if not, why and how to fix it: a row for each "
        "user, location and attempted day.",
        _SYNC_DAYS,
        _USER
        | {
            "state": f"{DayState.COMPLETE}: stored equals HighLevel's number up to read_until. "
            f"{DayState.FAILED}: a rerun can help. {DayState.WAITING}: needs action first, or "
            f"an operator has paused the syncs. {DayState.NOT_KEPT}: deleted because of its age; "
            "its marts stay.",
            "message": "Why the day is not complete; for a complete day, what is odd about it.",
            "fix": "What to do; NULL: no action needed.",
        },
    ),
    View(
        "connections",
        "Every user, the state of their connection to HighLevel, and their last sync's result.",
        _CONNECTIONS,
        _USER
        | {
            "state": "connected, in_doubt, paused, needs_reconnect, disconnected or "
            "never_connected; also connected while the token is being refreshed.",
            "can_sync": "Whether calls are read.",
            "failure_class": "Why calls are not read, or why the last refresh failed, as a code.",
            "message": "failure_class as a sentence; NULL: no problem.",
            "fix": "What to do; NULL: no action needed.",
            "connection_since": "Since when it has this state.",
            "location_id": "The HighLevel location whose calls the user sees.",
            "location_name": "The latest name from HighLevel.",
            "location_timezone": "IANA name.",
            "company_id": "The HighLevel agency of the location.",
            "last_sync_at": "When the last sync ended.",
            "last_sync_status": "success or failure.",
            "last_sync_message": "The result in a sentence.",
            "records_synced": "Calls stored for the days of the last sync.",
            "syncs_paused_since": "Since when an operator has paused the user's syncs; NULL: not "
            "paused. (The state paused means that HighLevel has paused the location.)",
            "syncs_paused_by": "Where the operator paused them.",
            "syncs_paused_because": "The operator's reason, if one was given.",
        },
    ),
    View(
        "agents",
        "The voice agents, including those deleted in HighLevel.",
        sa.select(*(column for column in agents.columns if column.name != "raw")),
    ),
    View(
        "locations",
        "The HighLevel locations that a user is or was connected to.",
        sa.select(locations),
    ),
    *(View(mart.name, mart.comment or "", _mart(mart)) for mart in ALL_MARTS),
    View(
        "action_shares",
        "For shares of actions over several days: a row for each day of an agent and each action "
        "that its location has ever had, even if the day does not have it.",
        share_queries.ACTION_SHARES,
        share_queries.ACTION_COMMENTS,
    ),
    View(
        "data_capture_shares",
        "The same for captured values: a row for each day of an agent and each value.",
        share_queries.DATA_CAPTURE_SHARES,
        share_queries.DATA_CAPTURE_COMMENTS,
    ),
)
