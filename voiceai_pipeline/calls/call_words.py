"""The full-text index of calls: finds them by words, by the beginning or end of a phone number, and
by contact.

It is a table of its own (``call_words``), which the web process fills shortly after each sync: an
index on ``call_logs`` would make writing a call several times as expensive. Words are indexed as
spoken, in lower case, without stemming (``simple``), because callers speak several languages. Each
row also holds terms that no text can contain: the phone number forwards and backwards (for its
beginning and its end), the contact, the month and the location. Month and location let a search of
a few weeks or locations skip all others inside the index.
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
"""The most calls that one transaction indexes."""

OVERLAP: Final = timedelta(hours=1)
"""A sync may commit up to this long after the ``last_changed_at`` that it wrote."""

_MONTHS: Final = 24
"""The most months that a search names; a longer search is not narrowed by month."""

_LOCATIONS: Final = 20
"""The most locations that a search names; with more, it is not narrowed by location."""

_PART: Final = 3_000
"""How many calls are searched first, before all of them. A common word fills the page from these;
for a rare one, the first search costs little."""

_LONGEST: Final = 200_000
"""The most characters of a call that are indexed: a ``tsvector`` holds at most a megabyte."""

_LOCK: Final = 7_204_511_093
"""The advisory lock that lets one process at a time fill the table."""


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
    """Reindex those of these calls (location id, call id) that are indexed. For changes of text
    that leave ``last_changed_at`` as it is, such as a new redaction."""
    locations, calls = [location for location, _ in keys], [call for _, call in keys]
    db.execute(_AGAIN, {"locations": locations, "calls": calls})


def first_part(
    db: sa.Connection, edge: datetime | None, *, is_up: bool, calls: int = _PART
) -> Window | None:
    """The window of the next indexed ``calls``, from ``edge`` on; None if there are none.

    Args:
        edge: UTC; None for the newest call, or the oldest if ``is_up``.
        is_up: look at calls from ``edge`` on; otherwise at those up to it.
    """
    at = call_words.c.started_at
    query = sa.select(at).order_by(at if is_up else at.desc()).limit(calls)
    if edge is not None:
        query = query.where(at >= edge if is_up else at <= edge)
    part = query.subquery("part")
    first, last = db.execute(
        sa.select(sa.func.min(part.c.started_at), sa.func.max(part.c.started_at))
    ).one()
    return None if first is None else Window(first, last + timedelta(microseconds=1))


def hits(search: Search, scopes: Sequence[Scope], *, only_ids: bool) -> sa.Select[Any]:
    """Selects the calls that match a search: ``location_id`` and ``call_id``. Some may be outside
    ``scopes``.

    Args:
        only_ids: content must not be searched, so nothing matches.
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
        # Only punctuation was typed: no call matches.
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
    """The UTC months from the first window to the last (YYYY-MM); empty if there are more than
    ``_MONTHS``, or if a window is None."""
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
    """All calls that changed before this instant (UTC) are indexed; None if no call is."""
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
