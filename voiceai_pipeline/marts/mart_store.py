"""Reads what the marts are computed from, and writes the marts: stored calls in, rows out.

Only what is counted is read: transcripts become a number of turns, callers and calls 64-bit hashes,
extracted values nothing but their names, all of it inside the database. A million calls then fit in
memory, and no personal data leave their table.
"""

import io
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from voiceai_pipeline.core.days import DayState, Window
from voiceai_pipeline.database.mart_tables import (
    LOOK_BACK,
    MARTS,
    action_metrics,
    agent_performance,
    daily_call_metrics,
    hourly_activity,
)
from voiceai_pipeline.database.tables import agent_names, agents, locations, sync_ledger
from voiceai_pipeline.marts.metrics import AgentFacts, Calls, MartRows, Place

_CHUNK: Final = 200_000
"""Rows parsed at once: bounds what text takes beside the numbers it becomes."""


@dataclass(frozen=True)
class LedgerDay:
    """What the ledger says of a location's day, for whichever of its users came furthest.

    Attributes:
        read_until: up to when the day was read completely (UTC); None: it was not.
        finished_at: when the newest of its entries was written (UTC).
        succeeded_at: when the newest complete one was.
    """

    day: date
    read_until: datetime | None
    finished_at: datetime | None
    succeeded_at: datetime | None


def begin(engine: sa.Engine) -> sa.Connection:
    """A connection whose transaction sees one moment: calls, ledger and directory of one state."""
    return engine.connect().execution_options(isolation_level="REPEATABLE READ")


def lock(db: sa.Connection, location_ids: Collection[str]) -> None:
    """Let one transaction at a time build these locations; released by its end."""
    db.execute(
        sa.text(
            "SELECT pg_advisory_xact_lock(hashtextextended('voiceai marts ' || id, 0)) "
            "FROM (SELECT unnest(CAST(:ids AS text[])) AS id ORDER BY 1) AS ordered"
        ),
        {"ids": sorted(location_ids)},
    )


# What there is -----------------------------------------------------------------------------------


def sizes(
    db: sa.Connection, first: datetime, last: datetime, location_ids: Collection[str] | None = None
) -> dict[str, int]:
    """How many calls each location has between two instants; locations of the ledger too."""
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
    """The ledger by location and day, in order."""
    complete = sync_ledger.c.state == DayState.COMPLETE.value
    query = (
        sa.select(
            sync_ledger.c.location_id,
            sync_ledger.c.day,
            sa.func.max(sync_ledger.c.read_until).filter(complete).label("read_until"),
            sa.func.max(sync_ledger.c.finished_at).label("finished_at"),
            sa.func.max(sync_ledger.c.finished_at).filter(complete).label("succeeded_at"),
        )
        .where(sync_ledger.c.location_id.in_(location_ids), sync_ledger.c.day.between(first, last))
        .group_by(sync_ledger.c.location_id, sync_ledger.c.day)
        .order_by(sync_ledger.c.location_id, sync_ledger.c.day)
    )
    days: defaultdict[str, list[LedgerDay]] = defaultdict(list)
    for row in db.execute(query):
        days[row.location_id].append(
            LedgerDay(row.day, row.read_until, row.finished_at, row.succeeded_at)
        )
    return days


def places(
    db: sa.Connection,
    location_ids: Collection[str],
    known: Mapping[str, Sequence[Window]],
    pipeline_zone: ZoneInfo,
) -> list[Place]:
    """The locations with their agents, as the directory knows them today.

    Args:
        known: see ``Place.known``.
        pipeline_zone: stands in where a location's is not known.
    """
    query = sa.select(locations).where(locations.c.location_id.in_(location_ids))
    rows = {row["location_id"]: row for row in db.execute(query).mappings()}
    agents_of = _agents(db, location_ids)
    found = []
    for location_id in sorted(location_ids):
        row = rows.get(location_id)
        zone = zone_of(row["timezone"] if row else None)
        found.append(
            Place(
                location_id=location_id,
                zone=zone or pipeline_zone,
                is_zone_assumed=zone is None,
                name=row["name"] if row else None,
                agents=agents_of.get(location_id, {}),
                known=tuple(known.get(location_id, ())),
            )
        )
    return found


def zone_of(name: str | None) -> ZoneInfo | None:
    """The zone of that IANA name; None for none and for a name that nobody knows."""
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        return None


def _agents(db: sa.Connection, location_ids: Collection[str]) -> dict[str, dict[str, AgentFacts]]:
    names: defaultdict[tuple[str, str], list[tuple[datetime, str]]] = defaultdict(list)
    history = (
        sa.select(agent_names)
        .where(agent_names.c.location_id.in_(location_ids))
        .order_by(agent_names.c.since)
    )
    for row in db.execute(history):
        names[row.location_id, row.agent_id].append((row.since, row.name))
    query = sa.select(
        agents.c.location_id,
        agents.c.agent_id,
        agents.c.timezone,
        agents.c.missing_since,
        agents.c.raw["maxCallDuration"].label("max_seconds"),
        agents.c.raw["agentWorkingHours"].label("working_hours"),
    ).where(agents.c.location_id.in_(location_ids))
    found: defaultdict[str, dict[str, AgentFacts]] = defaultdict(dict)
    for row in db.execute(query):
        longest = row.max_seconds
        is_number = isinstance(longest, (int, float)) and not isinstance(longest, bool)
        found[row.location_id][row.agent_id] = AgentFacts(
            names=tuple(names[row.location_id, row.agent_id]),
            is_deleted=row.missing_since is not None,
            zone=zone_of(row.timezone),
            max_seconds=float(longest) if is_number and longest > 0 else None,
            working_hours=row.working_hours,
        )
    return found


# Reading -----------------------------------------------------------------------------------------

_CALLER: Final = (
    "coalesce(hashtextextended(coalesce(nullif(contact_id, ''), nullif(from_number, '')), 0), 0)"
)
_NUMBER: Final = (
    "coalesce(hashtextextended(coalesce(nullif(from_number, ''), nullif(contact_id, '')), 0), 0)"
)
_CALL: Final = "hashtextextended(location_id || ' ' || call_id, 0)"
_STARTED: Final = "(extract(epoch FROM started_at) * 1000000)::bigint"
_OURS: Final = "location_id = ANY(%(ids)s) AND started_at >= %(first)s AND started_at < %(last)s"
_BASE: Final = f"{_OURS} AND missing_since IS NULL AND is_trial IS NOT TRUE"

# string_to_array and not a regular expression: measured, it takes a third of the time.
_CALLS_SQL: Final = f"""
    SELECT location_id AS location, {_CALL} AS call, coalesce(agent_id, '') AS agent,
           {_STARTED} AS started_at, round(duration_seconds * 1000) AS duration_ms,
           cardinality(string_to_array(E'\\n' || coalesce(transcript, ''), E'\\nhuman:')) - 1
               AS turns,
           (is_trial IS TRUE)::int AS is_trial, (is_trial IS NULL)::int AS is_trial_unknown,
           (missing_since IS NOT NULL)::int AS is_missing,
           (is_agent_deleted IS TRUE)::int AS is_agent_deleted,
           coalesce((transcript ~ '\\S')::int, 0) AS has_transcript,
           coalesce((summary ~ '\\S')::int, 0) AS has_summary,
           {_CALLER} AS caller, {_NUMBER} AS number
    FROM call_logs WHERE {_OURS}
"""  # noqa: S608 - our own text

_AROUND_SQL: Final = f"""
    SELECT location_id AS location, {_STARTED} AS started_at, {_CALLER} AS caller,
           {_NUMBER} AS number
    FROM call_logs WHERE {_BASE}
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

# Empty: null, a blank text, a list or an object with nothing in it. False and 0 are answers.
_CAPTURED_SQL: Final = f"""
    SELECT {_CALL} AS call, entry.key
    FROM call_logs, jsonb_each(
        CASE jsonb_typeof(extracted_data) WHEN 'object' THEN extracted_data ELSE '{{}}' END
        ) AS entry
    WHERE {_BASE} AND entry.value NOT IN ('null', '[]', '{{}}')
      AND NOT (jsonb_typeof(entry.value) = 'string' AND entry.value #>> '{{}}' !~ '\\S')
"""  # noqa: S608 - our own text


def read_calls(
    db: sa.Connection, location_ids: Collection[str], first: datetime, last: datetime
) -> Calls:
    """Everything the marts need of the calls from ``first`` to before ``last`` (UTC)."""
    reach = timedelta(days=1)
    ours = {"ids": list(location_ids), "first": first, "last": last}
    wide = ours | {"first": first - timedelta(days=LOOK_BACK), "last": last + reach}
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
            **flags,
            "caller": "int64",
            "number": "int64",
        },
    )
    around_types = {"location": "category"} | dict.fromkeys(
        ("started_at", "caller", "number"), "int64"
    )
    action_types = {
        "call": "int64",
        "type": "category",
        "name": "category",
        "is_executed": "bool",
        "triggered_at": "object",
        "executed_at": "object",
    }
    return Calls(
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
    """The query's rows by COPY, chunk by chunk; texts become categories at once."""
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    parts: list[pd.DataFrame] = []
    texts = [name for name, kind in types.items() if kind in ("category", "object")]

    def parse(text: bytes) -> None:
        part = pd.read_csv(
            io.BytesIO(text),
            names=list(types),
            dtype={name: _PARSED.get(kind, kind) for name, kind in types.items()},
            keep_default_na=False,
            na_values={name: [""] for name in types if name not in texts},
        )
        for name, kind in types.items():
            if kind == "object":  # only instants are; what cannot be read is none
                part[name] = pd.to_datetime(
                    part[name], format="ISO8601", utc=True, errors="coerce"
                ).astype("datetime64[us, UTC]")
            elif kind == "bool":
                part[name] = part[name].astype(bool)
        parts.append(part)

    rows, pending = 0, io.BytesIO()
    with (
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


_PARSED: Final = {"bool": "int8", "object": "str", "category": "category"}


def _joined(parts: list[pd.DataFrame], categories: list[str]) -> pd.DataFrame:
    """The parts as one frame; a category column stays one though parts know other categories."""
    if len(parts) == 1:
        return parts[0]
    for name in categories:
        whole = pd.api.types.union_categoricals([part[name] for part in parts]).categories
        for part in parts:
            part[name] = part[name].cat.set_categories(whole)
    return pd.concat(parts, ignore_index=True)


# Writing -----------------------------------------------------------------------------------------


def replace(
    db: sa.Connection, location_ids: Collection[str], days: Sequence[date], rows: MartRows
) -> None:
    """Make the marts of these locations and days equal to ``rows``."""
    for table in MARTS:
        db.execute(
            sa.delete(table).where(
                table.c.location_id.in_(location_ids), table.c.day.between(days[0], days[-1])
            )
        )
        _copy(db, table, getattr(rows, table.name))


def _copy(db: sa.Connection, table: sa.Table, frame: pd.DataFrame) -> None:
    names = [column.name for column in table.columns]
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    columns = [_values(frame[name]) for name in names]
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy,
    ):
        for row in zip(*columns, strict=True):
            copy.write_row(row)


def _values(column: pd.Series) -> list[Any]:
    """As Python's own values, None where there is none."""
    plain = column.astype(object)
    return list(plain.where(plain.notna(), None))


_TOTALS: Final = """
    SELECT c.location_id, (c.started_at AT TIME ZONE z.zone)::date AS day, count(*) AS calls,
           coalesce(sum(round(c.duration_seconds * 1000)), 0)::bigint AS talk_ms,
           sum((SELECT count(*) FROM jsonb_array_elements(
               CASE jsonb_typeof(c.executed_call_actions) WHEN 'array'
               THEN c.executed_call_actions ELSE '[]' END) AS action
               WHERE jsonb_typeof(action) = 'object'))::bigint AS actions
    FROM call_logs c
    JOIN unnest(CAST(:ids AS text[]), CAST(:zones AS text[])) AS z(location_id, zone)
        USING (location_id)
    WHERE c.started_at >= :first AND c.started_at < :last
      AND c.missing_since IS NULL AND c.is_trial IS NOT TRUE
    GROUP BY 1, 2
"""

_PUBLISHED: Final = {
    daily_call_metrics: ("calls", "talk_seconds", "actions"),
    agent_performance: ("calls", "talk_seconds", "actions"),
    hourly_activity: ("calls", "talk_seconds", "actions"),
    action_metrics: ("actions",),
}


def disagreements(
    db: sa.Connection,
    places: Sequence[Place],
    days: Sequence[date],
    first: datetime,
    last: datetime,
) -> list[str]:
    """Where the marts of these days do not add up to the calls in the table, in words.

    The calls are counted by the database, on its own: by location and local day.

    Args:
        first, last: instants (UTC) that enclose the days in every zone.
    """
    ids = [place.location_id for place in places]
    values = {
        "ids": ids,
        "zones": [place.zone.key for place in places],
        "first": first,
        "last": last,
    }
    wanted = {
        (row.location_id, row.day): (row.calls, row.talk_ms, row.actions)
        for row in db.execute(sa.text(_TOTALS), values)
        if days[0] <= row.day <= days[-1]
    }
    found = []
    for table, names in _PUBLISHED.items():
        query = sa.select(
            table.c.location_id, table.c.day, *(sa.func.sum(table.c[name]) for name in names)
        ).where(table.c.location_id.in_(ids), table.c.day.between(days[0], days[-1]))
        sums = {
            (row[0], row[1]): tuple(row[2:])
            for row in db.execute(query.group_by(table.c.location_id, table.c.day))
        }
        for cell in sorted(wanted.keys() | sums.keys()):
            calls, talk_ms, actions = wanted.get(cell, (0, 0, 0))
            expected = (actions,) if len(names) == 1 else (calls, talk_ms, actions)
            held = sums.get(cell, (0,) * len(names))
            held = held if len(names) == 1 else (held[0], int(held[1] * 1000), held[2])
            if tuple(map(int, held)) != tuple(map(int, expected)):
                found.append(
                    f"{table.name}, {cell[1]}, location {cell[0]}: {', '.join(names)} are "
                    f"{', '.join(map(str, held))}, the calls say {', '.join(map(str, expected))}."
                )
    return found


# What is stale -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """A day of a location as it was last computed."""

    synced_at: datetime | None
    timezone: str
    rules_version: str


def news(db: sa.Connection, since: datetime | None, limit: int) -> list[tuple[str, date, datetime]]:
    """Location, day and time of the ledger's entries written after ``since`` (UTC; None: ever),
    oldest first, ``limit`` at most."""
    query = sa.select(
        sync_ledger.c.location_id, sync_ledger.c.day, sync_ledger.c.finished_at
    ).where(sync_ledger.c.finished_at.is_not(None))
    if since is not None:
        query = query.where(sync_ledger.c.finished_at > since)
    rows = db.execute(query.order_by(sync_ledger.c.finished_at).limit(limit))
    return [(row[0], row[1], row[2]) for row in rows]


def built(
    db: sa.Connection, location_ids: Collection[str], first: date, last: date
) -> dict[tuple[str, date], Built]:
    """Which days of these locations have marts, and from what."""
    table = daily_call_metrics
    query = sa.select(
        table.c.location_id, table.c.day, table.c.synced_at, table.c.timezone,
        table.c.rules_version,
    ).where(table.c.location_id.in_(location_ids), table.c.day.between(first, last))  # fmt: skip
    return {
        (row.location_id, row.day): Built(row.synced_at, row.timezone, row.rules_version)
        for row in db.execute(query)
    }


def zones(db: sa.Connection) -> dict[str, str | None]:
    """The name of each location's zone, as the directory has it."""
    return {
        row.location_id: row.timezone
        for row in db.execute(sa.select(locations.c.location_id, locations.c.timezone))
    }


def redefined(
    db: sa.Connection, pipeline_zone: ZoneInfo, rules_version: str, limit: int
) -> list[tuple[str, date]]:
    """Days with marts in another zone than their location's, or by other rules, oldest first.

    Args:
        limit: how many at most; the others come up once these are mended.
    """
    # Comparing the row below and above uses the index: equal rows, nearly all, are never visited.
    query = sa.text(
        "SELECT other.location_id, other.day FROM ("
        "  SELECT d.location_id, coalesce(z.timezone, :zone) AS timezone FROM ("
        "    SELECT location_id FROM locations "
        "    UNION SELECT location_id FROM api_keys WHERE location_id IS NOT NULL "
        "  ) AS d LEFT JOIN unnest(CAST(:ids AS text[]), CAST(:zones AS text[])) "
        "    AS z(location_id, timezone) USING (location_id)) AS place "
        "CROSS JOIN LATERAL ("
        "  SELECT location_id, day FROM daily_call_metrics m "
        "  WHERE m.location_id = place.location_id "
        "    AND (m.timezone, m.rules_version) < (place.timezone, :rules) "
        "  UNION ALL SELECT location_id, day FROM daily_call_metrics m "
        "  WHERE m.location_id = place.location_id "
        "    AND (m.timezone, m.rules_version) > (place.timezone, :rules) LIMIT :limit) AS other "
        "ORDER BY 2, 1 LIMIT :limit"
    )
    usable = {
        location_id: zone.key
        for location_id, name in zones(db).items()
        if (zone := zone_of(name)) is not None
    }
    values = {
        "ids": list(usable),
        "zones": list(usable.values()),
        "zone": pipeline_zone.key,
        "rules": rules_version,
        "limit": limit,
    }
    return [(row.location_id, row.day) for row in db.execute(query, values)]


# What pictures show ------------------------------------------------------------------------------


def read_rows(
    db: sa.Connection, table: sa.Table, first: date, last: date, columns: Sequence[str]
) -> pd.DataFrame:
    """Columns of a mart's days, a row for each of its own; None stays None."""
    query = sa.select(*(table.c[name] for name in columns)).where(table.c.day.between(first, last))
    return pd.DataFrame(db.execute(query).fetchall(), columns=list(columns), dtype=object)


def read_sums(
    db: sa.Connection,
    table: sa.Table,
    first: date,
    last: date,
    by: Sequence[str],
    sums: Sequence[str],
) -> pd.DataFrame:
    """Sums over a mart's days, all locations together, for each group of ``by``."""
    keys = [table.c[name] for name in by]
    query = (
        sa.select(*keys, *(sa.func.sum(table.c[name]) for name in sums))
        .where(table.c.day.between(first, last))
        .group_by(*keys)
    )
    return pd.DataFrame(db.execute(query).fetchall(), columns=[*by, *sums])


def busiest_agents(
    db: sa.Connection, first: date, last: date, sums: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """The agents with the most calls in these days: last name, location's name, sums; and how many
    agents there are (``total``)."""
    table, daily = agent_performance, daily_call_metrics
    named = sa.func.array_agg(aggregate_order_by(table.c.agent_name, table.c.day.desc()))[1]
    place = sa.func.max(daily.c.location_name)
    calls = sa.func.sum(table.c.calls)
    query = (
        sa.select(
            table.c.location_id,
            table.c.agent_id,
            named.label("agent_name"),
            place.label("location_name"),
            *(sa.func.sum(table.c[name]).label(name) for name in sums),
            sa.func.count().over().label("total"),
        )
        .join(daily, (daily.c.location_id == table.c.location_id) & (daily.c.day == table.c.day))
        .where(table.c.day.between(first, last))
        .group_by(table.c.location_id, table.c.agent_id)
        .order_by(calls.desc(), table.c.location_id, table.c.agent_id)
        .limit(limit)
    )
    return [dict(row) for row in db.execute(query).mappings()]


def busiest_actions(db: sa.Connection, first: date, last: date, limit: int) -> list[dict[str, Any]]:
    """The actions in the most calls of these days: type, name, sums; and how many there are
    (``total``)."""
    table = action_metrics
    calls = sa.func.sum(table.c.calls)
    query = (
        sa.select(
            table.c.action_type,
            table.c.action_name,
            # A call has one day and one agent, so over these its actions of one name add up.
            calls.label("calls"),
            sa.func.sum(table.c.actions).label("actions"),
            sa.func.sum(table.c.executed_actions).label("executed_actions"),
            sa.func.count().over().label("total"),
        )
        .where(table.c.day.between(first, last))
        .group_by(table.c.action_type, table.c.action_name)
        .order_by(calls.desc(), table.c.action_type, table.c.action_name)
        .limit(limit)
    )
    return [dict(row) for row in db.execute(query).mappings()]


def actions_of_day(db: sa.Connection, day: date, limit: int) -> list[dict[str, Any]]:
    """The rows of a day in the most calls, with the names of agent and location; and how many rows
    there are (``total``)."""
    table, agent, daily = action_metrics, agent_performance, daily_call_metrics
    of_agent = (
        (agent.c.location_id == table.c.location_id)
        & (agent.c.day == table.c.day)
        & (agent.c.agent_id == table.c.agent_id)
    )
    query = (
        sa.select(
            table,
            agent.c.agent_name,
            daily.c.location_name,
            sa.func.count().over().label("total"),
        )
        .join(agent, of_agent)
        .join(daily, (daily.c.location_id == table.c.location_id) & (daily.c.day == table.c.day))
        .where(table.c.day == day)
        .order_by(table.c.calls.desc(), *table.primary_key.columns)
        .limit(limit)
    )
    return [dict(row) for row in db.execute(query).mappings()]


def captured_values(db: sa.Connection, first: date, last: date, limit: int) -> list[dict[str, Any]]:
    """The values captured in the most engaged calls of these days; beside them the engaged calls of
    the agents that captured it, and how many values there are (``total``).

    Who never captures a value is not asked for it: their calls would make every share small.
    """
    query = sa.text(
        "WITH captured AS ("
        "  SELECT data_key, location_id, agent_id, sum(engaged_filled_calls) AS filled "
        "  FROM data_capture_metrics WHERE day BETWEEN :first AND :last GROUP BY 1, 2, 3), "
        "agent AS ("
        "  SELECT location_id, agent_id, sum(engaged_calls) AS engaged "
        "  FROM agent_performance WHERE day BETWEEN :first AND :last GROUP BY 1, 2) "
        "SELECT data_key, sum(filled)::bigint AS engaged_filled_calls, "
        "       sum(engaged)::bigint AS engaged_calls, count(*) OVER () AS total "
        "FROM captured JOIN agent USING (location_id, agent_id) "
        "GROUP BY data_key ORDER BY 2 DESC, 1 LIMIT :limit"
    )
    values = {"first": first, "last": last, "limit": limit}
    return [dict(row) for row in db.execute(query, values).mappings()]
