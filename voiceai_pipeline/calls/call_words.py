"""The full-text index of calls: found by a word, by a number's beginning or end, by a contact.

It is a table beside ``call_logs`` (``call_words``), filled a moment later by the web process: an
index on the calls themselves would cost every sync several times the write of a call. Words are as
they were spoken, in lower case, without a language's rules (``simple``): a location's callers speak
several languages. Besides words a row holds terms that no text can contain: the number forwards
and backwards (for its beginning and its end), the contact, and the month
and the location, which let a search of a few weeks or locations pass over all others inside the
index.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSQUERY

from voiceai_pipeline.calls.call_filter import Scope, Search
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.tables import call_words

AT_ONCE: Final = 20_000
"""Calls of one transaction of the keeper."""

OVERLAP: Final = timedelta(hours=1)
"""A sync may commit this long after the time that it wrote into its calls."""

_MONTHS: Final = 24
"""Months up to which a search names them; a longer one looks at all."""

_LOCATIONS: Final = 20
"""Locations up to which a search names them."""

_PART: Final = 3_000
"""Calls that are looked at one by one before the index is asked: a word that many callers say is
found there, and one that few say costs little more."""

_LONGEST: Final = 200_000
"""Characters of a call that are indexed: PostgreSQL takes a megabyte of words."""

_LOCK: Final = 7_204_511_093
"""Of the keeper: one process at a time fills the table."""


def keep(db: sa.Connection, limit: int = AT_ONCE) -> int:
    """Index up to ``limit`` calls that are new or have changed; return how many were.

    Several processes may call this: while one is indexing, the others find nothing to do.
    """
    is_mine = db.execute(
        sa.text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}
    ).scalar_one()
    if not is_mine:
        return 0
    return db.execute(_KEEP, {"limit": limit, "since": _since(db)}).rowcount


def is_behind(db: sa.Connection, now: datetime, grace: timedelta) -> bool:
    """Whether a call stored before ``now - grace`` cannot be found by its words yet."""
    values = {"since": _since(db), "until": now - grace}
    return bool(db.execute(_BEHIND, values).scalar_one())


def index_again(db: sa.Connection, keys: Sequence[tuple[str, str]]) -> None:
    """Index these calls (location and call id) again if they are indexed: their text has changed
    without counting as a change, as a new redaction does."""
    locations, calls = [location for location, _ in keys], [call for _, call in keys]
    db.execute(_AGAIN, {"locations": locations, "calls": calls})


def first_part(db: sa.Connection, edge: datetime | None, *, is_up: bool) -> Window | None:
    """The time of the first ``_PART`` indexed calls from ``edge`` on; None: there are none.

    Args:
        edge: UTC; None: from the newest, or, upwards, from the oldest.
    """
    at = call_words.c.started_at
    query = sa.select(at).order_by(at if is_up else at.desc()).limit(_PART)
    if edge is not None:
        query = query.where(at >= edge if is_up else at <= edge)
    part = query.subquery("part")
    first, last = db.execute(
        sa.select(sa.func.min(part.c.started_at), sa.func.max(part.c.started_at))
    ).one()
    return None if first is None else Window(first, last + timedelta(microseconds=1))


def hits(search: Search, scopes: Sequence[Scope], *, only_ids: bool) -> sa.Select[Any]:
    """The calls that a search may find, by ``location_id`` and ``call_id``; some may lie outside
    of ``scopes``.

    Args:
        only_ids: content is not looked at: nothing is found.
    """
    columns = (call_words.c.location_id, call_words.c.call_id)
    if only_ids:
        return sa.select(*columns).where(sa.false())
    terms: list[sa.ColumnElement[Any]] = [
        sa.func.websearch_to_tsquery(sa.text("'simple'"), search.text, type_=TSQUERY)
    ]
    if search.digits:
        terms += [_term(f"p:{search.digits}", is_prefix=True)]
        terms += [_term(f"n:{search.digits[::-1]}", is_prefix=True)]
    if search.identifier:
        terms.append(_term(f"c:{search.identifier}"))
    asked: sa.ColumnElement[Any] = terms[0]
    for term in terms[1:]:
        asked = asked.op("||", return_type=TSQUERY())(term)
    windows = [one.window for one in scopes]
    locations = sorted({one.location_id for one in scopes})
    locations = locations if len(locations) <= _LOCATIONS else []
    within: sa.ColumnElement[Any] = asked
    for letter, names in (("m", _months(windows)), ("l", locations)):
        if names:
            any_of = sa.cast(
                sa.literal(" | ".join(f"{_quoted(letter, n)}" for n in names)), TSQUERY
            )
            within = sa.func.tsquery_and(within, any_of, type_=TSQUERY)
    query = sa.select(*columns).where(
        # Nothing but punctuation was typed: no call has been asked for.
        sa.func.numnode(asked) > 0,
        call_words.c.words.op("@@", return_type=sa.Boolean())(within),
    )
    firsts = [one.start for one in windows if one]
    if firsts and len(firsts) == len(windows):
        first, last = min(firsts), max(one.end for one in windows if one)
        query = query.where(call_words.c.started_at >= first, call_words.c.started_at < last)
    return query


def _term(text: str, *, is_prefix: bool = False) -> sa.ColumnElement[Any]:
    letter, _, name = text.partition(":")
    return sa.cast(sa.literal(f"{_quoted(letter, name)}{':*' if is_prefix else ''}"), TSQUERY)


def _quoted(letter: str, name: str) -> str:
    quoted = name.replace("\\", "\\\\").replace("'", "''")
    return f"'{letter}:{quoted}'"


def _months(windows: Sequence[Window | None]) -> list[str]:
    """The months of UTC that the windows touch; none if they are too many to name."""
    if not windows or any(one is None for one in windows):
        return []
    first = min(one.start for one in windows if one).astimezone(UTC)
    last = max(one.end for one in windows if one).astimezone(UTC)
    count = (last.year - first.year) * 12 + last.month - first.month + 1
    if count > _MONTHS:
        return []
    months = [first.year * 12 + first.month - 1 + n for n in range(count)]
    return [f"{month // 12:04d}-{month % 12 + 1:02d}" for month in months]


def _since(db: sa.Connection) -> datetime | None:
    """From where there may be calls that are not indexed (UTC); None: from the beginning."""
    newest = db.execute(sa.select(sa.func.max(call_words.c.changed_at))).scalar_one()
    return None if newest is None else newest - OVERLAP


_NOT_INDEXED: Final = """
    (CAST(:since AS timestamptz) IS NULL OR c.last_changed_at >= :since)
    AND NOT EXISTS (SELECT FROM call_words w WHERE w.location_id = c.location_id
                    AND w.call_id = c.call_id AND w.changed_at = c.last_changed_at)
"""

_INDEX: Final = f"""
    INSERT INTO call_words (location_id, call_id, started_at, changed_at, words)
    SELECT c.location_id, c.call_id, c.started_at, c.last_changed_at,
        to_tsvector('simple', left(concat_ws(E'\\n', c.summary, c.transcript), {_LONGEST}))
        || array_to_tsvector(ARRAY[
            'm:' || to_char(c.started_at AT TIME ZONE 'UTC', 'YYYY-MM'),
            'n:' || reverse(number.digits), 'p:' || number.digits,
            'c:' || coalesce(c.contact_id, ''), 'l:' || c.location_id])
    FROM (%s) AS wanted
    JOIN call_logs c USING (location_id, call_id)
    CROSS JOIN LATERAL (SELECT regexp_replace(coalesce(c.from_number, ''), '\\D', '', 'g')
                        AS digits) AS number
    ON CONFLICT (location_id, call_id) DO UPDATE SET
        started_at = excluded.started_at, changed_at = excluded.changed_at, words = excluded.words
"""  # noqa: S608 - our own text

_KEEP: Final = sa.text(
    _INDEX % f"SELECT c.location_id, c.call_id FROM call_logs c WHERE {_NOT_INDEXED} "  # noqa: S608 - our own text
    "ORDER BY c.last_changed_at LIMIT :limit"
)

_AGAIN: Final = sa.text(
    _INDEX % "SELECT w.location_id, w.call_id FROM call_words w "
    "JOIN unnest(CAST(:locations AS text[]), CAST(:calls AS text[])) AS k(location_id, call_id) "
    "USING (location_id, call_id)"
)

_BEHIND: Final = sa.text(
    f"SELECT EXISTS (SELECT FROM call_logs c WHERE {_NOT_INDEXED} AND c.last_changed_at < :until)"  # noqa: S608 - our own text
)
