"""Writes the marts, checks them against the calls, and finds the days whose marts are stale.

The marts' tables are in ``database/mart_tables.py``; ``call_reader.py`` reads what the marts are
computed from.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from voiceai_pipeline.calls.deleted_months import deleted_before
from voiceai_pipeline.core.days import TRAILING_DAYS, Window
from voiceai_pipeline.core.outcome import Outcome
from voiceai_pipeline.database.copy_format import errors_as_sqlalchemys
from voiceai_pipeline.database.mart_tables import (
    MARTS,
    action_metrics,
    agent_performance,
    daily_call_metrics,
    hourly_activity,
    outcome_metrics,
)
from voiceai_pipeline.database.tables import hinted_days, sync_ledger
from voiceai_pipeline.marts.call_counts import MartLocation
from voiceai_pipeline.marts.call_sql import DURATION
from voiceai_pipeline.marts.location_reader import DIRECTORY, zone_of
from voiceai_pipeline.marts.metrics import MartRows


def lock(db: sa.Connection, location_ids: Collection[str]) -> None:
    """Lock these locations until the transaction ends: one transaction at a time builds them."""
    db.execute(
        sa.text(
            "SELECT pg_advisory_xact_lock(hashtextextended('voiceai marts ' || id, 0)) "
            "FROM (SELECT unnest(CAST(:ids AS text[])) AS id ORDER BY 1) AS ordered"
        ),
        {"ids": sorted(location_ids)},
    )


def replace(
    db: sa.Connection,
    location_ids: Collection[str],
    days: Sequence[date],
    rows: MartRows,
    frozen: Collection[tuple[str, date]] = (),
) -> None:
    """Replace the marts of these locations and days by ``rows``, except days that are frozen."""
    for table in MARTS:
        gone = sa.delete(table).where(
            table.c.location_id.in_(location_ids), table.c.day.between(days[0], days[-1])
        )
        if frozen:
            gone = gone.where(sa.tuple_(table.c.location_id, table.c.day).not_in(_pairs(frozen)))
        db.execute(gone)
        _copy(db, table, getattr(rows, table.name))


def _pairs(cells: Collection[tuple[str, date]]) -> sa.Select[Any]:
    """The cells as a query: any number of them is two parameters."""
    ids, days = zip(*cells, strict=True)
    rows = sa.func.unnest(sa.literal(list(ids), ARRAY(sa.Text)), sa.literal(list(days), _DAYS))
    pair = rows.table_valued(sa.column("id", sa.Text), sa.column("day", sa.Date)).render_derived()
    return sa.select(pair.c.id, pair.c.day)


_DAYS: Final = ARRAY(sa.Date)


def _copy(db: sa.Connection, table: sa.Table, frame: pd.DataFrame) -> None:
    names = [column.name for column in table.columns]
    driver = db.connection.driver_connection
    assert driver is not None  # noqa: S101 - a checked-out connection has one
    columns = [_values(frame[name]) for name in names]
    with (
        errors_as_sqlalchemys(),
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy,
    ):
        for row in zip(*columns, strict=True):
            copy.write_row(row)


def _values(column: pd.Series) -> list[Any]:
    """The column as plain Python values; None where one is missing."""
    return [
        None if is_missing else value
        for value, is_missing in zip(column.tolist(), column.isna().tolist(), strict=True)
    ]


_TOTALS: Final = f"""
    SELECT d.location_id, d.day, count(*) AS calls,
           coalesce(sum(round({DURATION} * 1000)), 0)::bigint / 1000::numeric AS talk_seconds,
           sum((SELECT count(*) FROM jsonb_array_elements(
               CASE jsonb_typeof(c.executed_call_actions) WHEN 'array'
               THEN c.executed_call_actions ELSE '[]' END) AS action
               WHERE jsonb_typeof(action) = 'object'))::bigint AS actions
    FROM unnest(CAST(:ids AS text[]), CAST(:days AS date[]), CAST(:starts AS timestamptz[]),
                CAST(:ends AS timestamptz[])) AS d(location_id, day, starts, ends)
    JOIN call_logs c ON c.location_id = d.location_id
      AND c.started_at >= d.starts AND c.started_at < d.ends
    WHERE c.missing_since IS NULL AND c.is_trial IS NOT TRUE
    GROUP BY 1, 2
"""  # noqa: S608 - our own text

_PUBLISHED: Final = {
    daily_call_metrics: ("calls", "talk_seconds", "actions"),
    agent_performance: ("calls", "talk_seconds", "actions"),
    hourly_activity: ("calls", "talk_seconds", "actions"),
    action_metrics: ("actions",),
    outcome_metrics: ("calls", "talk_seconds"),
}


def disagreements(
    db: sa.Connection,
    mart_locations: Sequence[MartLocation],
    days: Sequence[date],
    frozen: Collection[tuple[str, date]] = (),
) -> list[str]:
    """Sentences about the marts of these days that do not add up to the stored calls, except days
    that are frozen.

    The database counts the calls independently, by location and local day. It gets the bounds of
    the days, because it may not know the time zones.
    """
    ids = [location.location_id for location in mart_locations]
    cells = [(one, day, Window.of_day(day, one.zone)) for one in mart_locations for day in days]
    values = {
        "ids": [one.location_id for one, _, _ in cells],
        "days": [day for _, day, _ in cells],
        "starts": [window.start for _, _, window in cells],
        "ends": [window.end for _, _, window in cells],
    }
    wanted = {
        (row["location_id"], row["day"]): row
        for row in db.execute(sa.text(_TOTALS), values).mappings()
    }
    found = []
    for table, names in _PUBLISHED.items():
        query = sa.select(
            table.c.location_id,
            table.c.day,
            *(sa.func.coalesce(sa.func.sum(table.c[name]), 0) for name in names),
        ).where(table.c.location_id.in_(ids), table.c.day.between(days[0], days[-1]))
        sums = {
            (row[0], row[1]): tuple(row[2:])
            for row in db.execute(query.group_by(table.c.location_id, table.c.day))
        }
        nothing = dict.fromkeys(names, 0)
        for cell in sorted((wanted.keys() | sums.keys()) - set(frozen)):
            expected = tuple(wanted.get(cell, nothing)[name] for name in names)
            held = sums.get(cell, (0,) * len(names))
            if held != expected:
                found.append(
                    f"{table.name}, {cell[1]}, location {cell[0]}: {', '.join(names)} are "
                    f"{', '.join(map(str, held))}; the calls give {', '.join(map(str, expected))}."
                )
    return found


# Finding stale marts -----------------------------------------------------------------------------


@dataclass(frozen=True)
class MartState:
    """What a location's day was last built from.

    Attributes:
        synced_at: the time of the newest ledger entry that the build saw (UTC); None if none.
    """

    synced_at: datetime | None
    timezone: str
    rules_version: str


def ledger_entries(
    db: sa.Connection, since: datetime | None, limit: int
) -> list[tuple[str, date, datetime]]:
    """Location, day and time (UTC) of ledger entries and hinted reads, oldest first.

    Args:
        since: only entries written after this (UTC); None: all.
        limit: at most this many.
    """
    written = sa.union_all(
        *(
            sa.select(table.c.location_id, table.c.day, table.c.finished_at).where(
                table.c.finished_at.is_not(None),
                sa.true() if since is None else table.c.finished_at > since,
            )
            for table in (sync_ledger, hinted_days)
        )
    ).subquery()
    rows = db.execute(sa.select(written).order_by(written.c.finished_at).limit(limit))
    return [(row[0], row[1], row[2]) for row in rows]


def mart_states(
    db: sa.Connection, location_ids: Collection[str], first: date, last: date
) -> dict[tuple[str, date], MartState]:
    """The days of these locations that have marts, and what they were built from."""
    table = daily_call_metrics
    query = sa.select(
        table.c.location_id, table.c.day, table.c.synced_at, table.c.timezone,
        table.c.rules_version,
    ).where(table.c.location_id.in_(location_ids), table.c.day.between(first, last))  # fmt: skip
    return {
        (row.location_id, row.day): MartState(row.synced_at, row.timezone, row.rules_version)
        for row in db.execute(query)
    }


def zones(db: sa.Connection) -> dict[str, str | None]:
    """The name of each location's time zone; None if it is not known."""
    return {
        row.location_id: row.timezone
        for row in db.execute(sa.select(DIRECTORY.c.location_id, DIRECTORY.c.timezone))
    }


def now_final(db: sa.Connection, since: datetime) -> set[tuple[str, date]]:
    """Days whose marts count outcomes as not final that are final now.

    Args:
        since: outcomes of calls that started at or after this (UTC) are not final today.
    """
    table = outcome_metrics
    query = sa.select(table.c.location_id, table.c.day).where(
        table.c.outcome == Outcome.NOT_FINAL.value,
        table.c.computed_at < since + timedelta(days=TRAILING_DAYS),
        # Local days that may have calls from before ``since``.
        table.c.day <= since.date(),
    )
    return {(row.location_id, row.day) for row in db.execute(query)}


def redefined(
    db: sa.Connection, pipeline_zone: ZoneInfo, rules_version: str, limit: int
) -> list[tuple[str, date]]:
    """Days with marts built in another zone than their location's, or by other rules, oldest first;
    without those whose calls were deleted.

    Args:
        limit: at most this many; the others are found once these are rebuilt.
    """
    # Searching below and above the current values uses the index and skips equal rows: nearly all.
    query = sa.text(
        "SELECT other.location_id, other.day FROM ("
        "  SELECT d.location_id, coalesce(z.timezone, :zone) AS timezone FROM ("
        "    SELECT location_id FROM locations "
        "    UNION SELECT location_id FROM api_keys WHERE location_id IS NOT NULL "
        "  ) AS d LEFT JOIN unnest(CAST(:ids AS text[]), CAST(:zones AS text[])) "
        "    AS z(location_id, timezone) USING (location_id)) AS wanted "
        "CROSS JOIN LATERAL ("
        "  SELECT location_id, day FROM daily_call_metrics m "
        "  WHERE m.location_id = wanted.location_id AND m.day >= :first "
        "    AND (m.timezone, m.rules_version) < (wanted.timezone, :rules) "
        "  UNION ALL SELECT location_id, day FROM daily_call_metrics m "
        "  WHERE m.location_id = wanted.location_id AND m.day >= :first "
        "    AND (m.timezone, m.rules_version) > (wanted.timezone, :rules) LIMIT :limit) AS other "
        "ORDER BY 2, 1 LIMIT :limit"
    )
    usable = {
        location_id: zone.key
        for location_id, name in zones(db).items()
        if (zone := zone_of(name)) is not None
    }
    before = deleted_before(db)
    values = {
        # Time zones differ by two days at most. Were the limit spent on days that are never built
        # again, the others would not be found.
        "first": date.min if before is None else before - timedelta(days=1),
        "ids": list(usable),
        "zones": list(usable.values()),
        "zone": pipeline_zone.key,
        "rules": rules_version,
        "limit": limit,
    }
    return [(row.location_id, row.day) for row in db.execute(query, values)]
