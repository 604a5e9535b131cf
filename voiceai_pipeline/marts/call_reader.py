"""Reads what the marts are computed from: stored calls and the sync ledger.

The database reduces each call to what is counted: a transcript to a number of turns, callers and
calls to 64-bit hashes, extracted values to their names. So a million calls fit in memory, and
personal data never leaves the database.
"""

import io
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import pandas as pd
import sqlalchemy as sa

from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.outcome import PROVISIONAL, Outcome, not_final_since
from voiceai_pipeline.database.copy_format import errors_as_sqlalchemys
from voiceai_pipeline.database.mart_tables import LOOK_BACK
from voiceai_pipeline.database.tables import (
    hinted_days,
    sync_ledger,
)
from voiceai_pipeline.marts.call_counts import (
    StoredCalls,
)
from voiceai_pipeline.marts.call_sql import (
    CALLER,
    CALLS,
    DURATION,
    IS_FILLED,
    NUMBER,
    OURS,
    spellings,
)

_CHUNK: Final = 200_000
"""Rows parsed at once; bounds the memory that their text takes."""


@dataclass(frozen=True)
class LedgerDay:
    """The ledger's entries of all users for one day of a location, combined.

    Attributes:
        day: of the pipeline's time zone.
        read_until: up to when the day was read completely (UTC), by the user who got furthest;
            None if it was not.
        finished_at: when the newest entry was written (UTC).
        succeeded_at: when the newest complete entry was written (UTC).
    """

    day: date
    read_until: datetime | None
    finished_at: datetime | None
    succeeded_at: datetime | None


def snapshot(engine: sa.Engine) -> sa.Connection:
    """A connection whose transaction sees calls, ledger and directory as of one moment."""
    return engine.connect().execution_options(isolation_level="REPEATABLE READ")


def sizes(
    db: sa.Connection, first: datetime, last: datetime, location_ids: Collection[str] | None = None
) -> dict[str, int]:
    """How many calls each location has between two instants (UTC); 0 for one that is only in the
    ledger."""
    query = sa.text(
        "SELECT location_id, sum(calls)::bigint AS calls FROM ("
        "  SELECT location_id, count(*) AS calls FROM call_logs "
        "  WHERE started_at >= :first AND started_at < :last "
        "    AND (:everywhere OR location_id = ANY(CAST(:ids AS text[]))) GROUP BY 1 "
        "  UNION ALL SELECT DISTINCT location_id, 0 FROM sync_ledger "
        "  WHERE day >= :first_day AND day <= :last_day AND location_id <> '' "
        "    AND (:everywhere OR location_id = ANY(CAST(:ids AS text[])))) AS found "
        "GROUP BY 1 ORDER BY 1"
    )
    values = {
        "first": first,
        "last": last,
        "first_day": first.date(),
        "last_day": last.date(),
        "everywhere": location_ids is None,
        "ids": list(location_ids or ()),
    }
    return {row.location_id: row.calls for row in db.execute(query, values)}


def ledger_days(
    db: sa.Connection, location_ids: Collection[str], first: date, last: date
) -> dict[str, list[LedgerDay]]:
    """The ledger's days in order, by location. A day that only hinted reads have changed is
    included, as one that was not read."""
    entries = sa.union_all(
        sa.select(
            sync_ledger.c.location_id, sync_ledger.c.day, sync_ledger.c.read_until,
            sync_ledger.c.finished_at, sync_ledger.c.state,
        ),
        sa.select(
            hinted_days.c.location_id, hinted_days.c.day, sa.null(), hinted_days.c.finished_at,
            sa.null(),
        ),
    ).subquery()  # fmt: skip
    complete = entries.c.state == DayState.COMPLETE.value
    query = (
        sa.select(
            entries.c.location_id,
            entries.c.day,
            sa.func.max(entries.c.read_until).filter(complete).label("read_until"),
            sa.func.max(entries.c.finished_at).label("finished_at"),
            sa.func.max(entries.c.finished_at).filter(complete).label("succeeded_at"),
        )
        .where(entries.c.location_id.in_(location_ids), entries.c.day.between(first, last))
        .group_by(entries.c.location_id, entries.c.day)
        .order_by(entries.c.location_id, entries.c.day)
    )
    days: defaultdict[str, list[LedgerDay]] = defaultdict(list)
    for row in db.execute(query):
        days[row.location_id].append(
            LedgerDay(row.day, row.read_until, row.finished_at, row.succeeded_at)
        )
    return days


_CALL: Final = "hashtextextended(location_id || ' ' || call_id, 0)"
_STARTED: Final = "(extract(epoch FROM started_at) * 1000000)::bigint"
_BASE: Final = f"{OURS} AND missing_since IS NULL AND is_trial IS NOT TRUE"

_PROVISIONAL: Final = ", ".join(f"'{outcome}'" for outcome in PROVISIONAL)

_CALLS_SQL: Final = f"""
    SELECT location_id AS location, {_CALL} AS call, coalesce(agent_id, '') AS agent,
           {_STARTED} AS started_at, round({DURATION} * 1000) AS duration_ms,
           coalesce(fact.caller_turns, 0) AS turns,
           (fact.caller_turns IS NULL)::int AS is_speaker_unknown,
           (is_trial IS TRUE)::int AS is_trial, (is_trial IS NULL)::int AS is_trial_unknown,
           (missing_since IS NOT NULL)::int AS is_missing,
           (is_agent_deleted IS TRUE)::int AS is_agent_deleted,
           fact.has_transcript::int AS has_transcript,
           coalesce((summary ~ '\\S')::int, 0) AS has_summary,
           {CALLER} AS caller, {NUMBER} AS number,
           CASE WHEN fact.outcome IN ({_PROVISIONAL}) AND started_at >= %(not_final_since)s
           THEN '{Outcome.NOT_FINAL}' ELSE fact.outcome END AS outcome, fact.language
    FROM {CALLS} JOIN (
        SELECT location_id, call_id, caller_turns, has_transcript, outcome, language FROM call_facts
    ) AS fact USING (location_id, call_id)
    WHERE {OURS}
"""  # noqa: S608 - our own text

_AROUND_SQL: Final = f"""
    SELECT location_id AS location, {_STARTED} AS started_at, {CALLER} AS caller,
           {NUMBER} AS number, round({DURATION} * 1000) AS duration_ms
    FROM {CALLS} WHERE {_BASE}
"""  # noqa: S608 - our own text

_ACTIONS_SQL: Final = f"""
    SELECT {_CALL} AS call, coalesce(action ->> 'actionType', '') AS type,
           coalesce(action ->> 'actionName', '') AS name,
           (coalesce(action ->> 'executedAt', '') <> '')::int AS is_executed,
           action ->> 'triggerReceivedAt' AS triggered_at, action ->> 'executedAt' AS executed_at
    FROM call_logs, jsonb_array_elements(
        CASE jsonb_typeof(executed_call_actions) WHEN 'array' THEN executed_call_actions
        ELSE '[]' END) AS action
    WHERE {_BASE} AND jsonb_typeof(action) = 'object'
"""  # noqa: S608 - our own text

_CAPTURED_SQL: Final = f"""
    SELECT {_CALL} AS call, entry.key
    FROM call_logs, jsonb_each(
        CASE jsonb_typeof(extracted_data) WHEN 'object' THEN extracted_data ELSE '{{}}' END
        ) AS entry
    WHERE {_BASE} AND {IS_FILLED}
"""  # noqa: S608 - our own text


def read_calls(
    db: sa.Connection,
    location_ids: Collection[str],
    first: datetime,
    last: datetime,
    now: datetime,
) -> StoredCalls:
    """Read what the marts need of the calls from ``first`` to before ``last`` (UTC). Their facts
    must be up to date (``call_fact_store.refresh``)."""
    reach = timedelta(days=1)
    ours = {"ids": list(location_ids), "first": first, "last": last}
    wide = ours | {"first": first - timedelta(days=LOOK_BACK), "last": last + reach}
    numbers = spellings(db, wide)
    ours, wide = ours | numbers, wide | numbers
    ours["not_final_since"] = not_final_since(now)
    flags = dict.fromkeys(
        (
            "is_trial",
            "is_trial_unknown",
            "is_missing",
            "is_agent_deleted",
            "has_transcript",
            "has_summary",
        ),
        "bool",
    )
    calls = _read(
        db,
        _CALLS_SQL,
        ours,
        {
            "location": "category",
            "call": "int64",
            "agent": "category",
            "started_at": "int64",
            "duration_ms": "float64",
            "turns": "int32",
            "is_speaker_unknown": "bool",
            **flags,
            "caller": "int64",
            "number": "int64",
            "outcome": "category",
            "language": "category",
        },
    )
    around_types = {"location": "category"} | dict.fromkeys(
        ("started_at", "caller", "number"), "int64"
    )
    around_types["duration_ms"] = "float64"
    action_types = {
        "call": "int64",
        "type": "category",
        "name": "category",
        "is_executed": "bool",
        "triggered_at": "object",
        "executed_at": "object",
    }
    return StoredCalls(
        calls=_timed(calls),
        actions=_read(db, _ACTIONS_SQL, ours, action_types),
        captured=_read(db, _CAPTURED_SQL, ours, {"call": "int64", "key": "category"}),
        around=_timed(_read(db, _AROUND_SQL, wide, around_types)),
    )


def _timed(frame: pd.DataFrame) -> pd.DataFrame:
    frame["started_at"] = pd.to_datetime(frame["started_at"], unit="us", utc=True).astype(
        "datetime64[us, UTC]"
    )
    return frame


def _read(
    db: sa.Connection, query: str, values: Mapping[str, Any], types: Mapping[str, str]
) -> pd.DataFrame:
    """Read the query's rows by COPY, chunk by chunk; texts become categories at once."""
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    parts: list[pd.DataFrame] = []
    texts = [name for name, kind in types.items() if kind in ("category", "object")]

    def parse(text: bytes) -> None:
        part = pd.read_csv(
            io.BytesIO(text),
            names=list(types),
            # Parsed as categories, texts of digits would become numbers.
            dtype={name: _PARSED.get(kind, kind) for name, kind in types.items()},
            keep_default_na=False,
            na_values={name: [""] for name in types if name not in texts},
        )
        for name, kind in types.items():
            if kind == "object":  # only instants are; an unreadable one becomes NaT
                part[name] = pd.to_datetime(
                    part[name], format="ISO8601", utc=True, errors="coerce"
                ).astype("datetime64[us, UTC]")
            elif kind == "category":
                part[name] = part[name].astype("category")
            elif kind == "bool":
                part[name] = part[name].astype(bool)
        parts.append(part)

    rows, pending = 0, io.BytesIO()
    with (
        errors_as_sqlalchemys(),
        driver.cursor() as cursor,
        cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv)", values) as copy,
    ):
        for block in copy:
            pending.write(block)
            rows += 1
            if rows == _CHUNK:
                parse(pending.getvalue())
                rows, pending = 0, io.BytesIO()
    if rows or not parts:
        parse(pending.getvalue())
    return _joined(parts, [name for name, kind in types.items() if kind == "category"])


_PARSED: Final = {"bool": "int8", "object": "str", "category": "str"}


def _joined(parts: list[pd.DataFrame], categories: list[str]) -> pd.DataFrame:
    """The parts as one frame; category columns stay categorical even if the categories differ."""
    if len(parts) == 1:
        return parts[0]
    for name in categories:
        whole = pd.api.types.union_categoricals([part[name] for part in parts]).categories
        for part in parts:
            part[name] = part[name].cat.set_categories(whole)
    return pd.concat(parts, ignore_index=True)
