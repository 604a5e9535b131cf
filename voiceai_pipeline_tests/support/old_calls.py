"""Calls of past months with all that is derived from them, to be deleted because of their age."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls import call_words
from voiceai_pipeline.calls.deleted_months import Deletion, OldCalls

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEEP_DAYS = 60
"""At ``NOW``, the first day that is kept is 1 September."""

UTC_ZONE = ZoneInfo("UTC")

OF_A_CALL = ("call_logs", "call_facts", "call_words", "set_aside_calls")


def old_calls(engine: sa.Engine, zone: ZoneInfo = UTC_ZONE, **more: Any) -> OldCalls:
    return OldCalls(engine, zone, KEEP_DAYS, **({"now": lambda: NOW} | more))


def delete(engine: sa.Engine, zone: ZoneInfo = UTC_ZONE, **more: Any) -> Deletion:
    """Delete what is no longer kept, whether or not marts are built."""
    return old_calls(engine, zone, **more).delete(lambda _first, _before: True)


def derive(engine: sa.Engine) -> None:
    """Index every stored call, and set an item aside that began with it."""
    with engine.begin() as db:
        while call_words.keep(db) == call_words.AT_ONCE:
            pass
        db.execute(
            sa.text(
                "INSERT INTO set_aside_calls (location_id, content_hash, reason, raw, started_at, "
                "first_seen_at, last_seen_at) SELECT location_id, sha256(call_id::bytea), 'odd', "
                "'{}', nullif(started_at, CASE call_id WHEN 'call-1' THEN started_at END), "
                "started_at, started_at FROM call_logs"
            )
        )


def counts(engine: sa.Engine) -> list[int]:
    """The rows of each table that has rows of calls."""
    with engine.begin() as db:
        return [db.scalar(sa.select(sa.func.count()).select_from(sa.table(t))) for t in OF_A_CALL]


def rows(engine: sa.Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.begin() as db:
        return [tuple(row) for row in db.execute(sa.text(query))]


def fill(engine: sa.Engine, location_id: str, first: datetime, last: datetime, calls: int) -> None:
    """Store ``calls`` calls from ``first`` to before ``last``, evenly, and their facts."""
    query = sa.text(
        "INSERT INTO call_logs (location_id, call_id, started_at, executed_call_actions, "
        "content_hash, first_seen_at, last_changed_at) "
        "SELECT :location, 'filled-' || n || :first, "
        "CAST(:first AS timestamptz) + n * (CAST(:last AS timestamptz) - :first) / :calls, "
        "'[]', '', now(), now() FROM generate_series(0, :calls - 1) AS n"
    ).bindparams(
        sa.bindparam("first", type_=sa.DateTime(timezone=True)),
        sa.bindparam("last", type_=sa.DateTime(timezone=True)),
    )
    with engine.begin() as db:
        db.execute(query, {"location": location_id, "first": first, "last": last, "calls": calls})
        db.execute(_FACTS)


_FACTS = sa.text(
    "INSERT INTO call_facts (location_id, call_id, started_at, agent_id, caller, is_counted, "
    "has_transcript, is_engaged, is_goal_reached, is_transferred, is_data_captured, outcome, "
    "rules_version, row_version) SELECT location_id, call_id, started_at, '', 1, true, true, true, "
    "false, false, false, 'answered', '', 0 FROM call_logs ON CONFLICT DO NOTHING"
)
