"""Pages of lists of very many locations; those of a few are tested through the page of calls."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import call_search
from voiceai_pipeline.calls.call_filter import CallFilter, Position, Scope, Show
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.tables import call_logs

NOW = datetime(2026, 11, 20, 15, tzinfo=UTC)
LOCATIONS = [f"Loc{number:03}" for number in range(400)]
LIMIT = 7

Key = tuple[datetime, str, str]


@pytest.fixture
def stored(engine: sa.Engine) -> list[Key]:
    """The live calls of 400 locations: many of the last hours, few of the weeks before, some at the
    same time, one to come. Every tenth is a test call."""
    dice = random.Random(3)  # noqa: S311
    near = [timedelta(minutes=dice.randrange(180)) for _ in range(600)]
    far = [timedelta(hours=dice.randrange(3, 900)) for _ in range(60)]
    rows: list[dict[str, Any]] = [
        {
            "location_id": dice.choice(LOCATIONS),
            "call_id": f"call-{number:04}",
            "started_at": NOW - ago,
            "is_trial": number % 10 == 0,
        }
        for number, ago in enumerate([*near, *far, -timedelta(hours=1)], 1)
    ]
    common = {"content_hash": b"", "raw": None, "first_seen_at": NOW, "last_changed_at": NOW}
    common |= {"executed_call_actions": []}
    with engine.begin() as db:
        db.execute(sa.insert(call_logs), [{**row, **common} for row in rows])
    live = [row for row in rows if not row["is_trial"]]
    return sorted((row["started_at"], row["location_id"], row["call_id"]) for row in live)


def walk(db: sa.Connection, wanted: CallFilter, *, back: bool = False) -> Iterator[list[Key]]:
    """Every page, to the end of the list; ``back``: then from its last call to its first."""
    edge: Position | None = None
    last: Position | None = None
    while rows := call_search.page(db, wanted, LIMIT, after=edge, now=NOW):
        edge = last = rows[-1].position
        if not back:
            yield [(row.started_at, row.location_id, row.call_id) for row in rows]
    while back and (rows := call_search.page(db, wanted, LIMIT, before=last, now=NOW)):
        last = rows[0].position
        yield [(row.started_at, row.location_id, row.call_id) for row in rows][::-1]


@pytest.mark.parametrize("is_ascending", [False, True])
@pytest.mark.parametrize("window", [None, Window(NOW - timedelta(days=30), NOW)])
def test_pages_of_very_many_locations_have_every_call_once_in_order(
    engine: sa.Engine, stored: list[Key], window: Window | None, is_ascending: bool
) -> None:
    scopes = [Scope(one, window) for one in LOCATIONS]
    wanted = CallFilter(scopes, show=Show.LIVE, is_ascending=is_ascending)
    inside = [key for key in stored if window is None or key[0] in window]
    expected = inside if is_ascending else inside[::-1]
    with engine.begin() as db:
        pages = list(walk(db, wanted))
        assert [key for page in pages for key in page] == expected
        assert {len(page) for page in pages[:-1]} == {LIMIT}
        behind = list(walk(db, wanted, back=True))
        assert [key for page in behind for key in page] == expected[-2::-1]


def test_each_location_keeps_its_own_window_among_very_many(
    engine: sa.Engine, stored: list[Key]
) -> None:
    """As locations of several time zones have."""
    windows = {
        one: Window(NOW - timedelta(minutes=30 + 60 * (number % 3)), NOW + timedelta(days=1))
        for number, one in enumerate(LOCATIONS)
    }
    expected = [key for key in stored[::-1] if key[0] in windows[key[1]]]
    with engine.begin() as db:
        pages = walk(db, CallFilter([Scope(one, windows[one]) for one in LOCATIONS]))
        assert [key for page in pages for key in page] == expected
