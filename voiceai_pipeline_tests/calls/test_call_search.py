"""Pages of lists of very many locations; those of a few are tested through the page of calls."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls import call_search, call_words
from voiceai_pipeline.calls.call_filter import CallFilter, Position, Scope, Show
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.tables import call_logs
from voiceai_pipeline_tests.support.statements import counted

NOW = datetime(2026, 11, 20, 15, tzinfo=UTC)
LOCATIONS = [f"Loc{number:04}" for number in range(2_200)]
LIMIT = 7

Key = tuple[datetime, str, str]


@pytest.fixture
def stored(engine: sa.Engine) -> list[Key]:
    """The live calls of very many locations: many of the last hours, few of the weeks before, some
    at the same time, one to come. Every tenth is a test call, every third is of the agent "rare".
    Their words are indexed, except those of the oldest, of the newest and of some in between."""
    dice = random.Random(3)  # noqa: S311
    near = [timedelta(minutes=dice.randrange(180)) for _ in range(600)]
    far = [timedelta(hours=dice.randrange(3, 900)) for _ in range(60)]
    rows: list[dict[str, Any]] = [
        {
            "location_id": dice.choice(LOCATIONS),
            "call_id": f"call-{number:04}",
            "started_at": NOW - ago,
            "is_trial": number % 10 == 0,
            "agent_id": "usual" if number % 3 else "rare",
        }
        for number, ago in enumerate([*near, *far, -timedelta(hours=1)], 1)
    ]
    common = {"content_hash": b"", "raw": None, "first_seen_at": NOW, "last_changed_at": NOW}
    common |= {"executed_call_actions": []}
    with engine.begin() as db:
        db.execute(sa.insert(call_logs), [{**row, **common} for row in rows])
        assert call_words.keep(db, len(rows)) == len(rows)
        by_time = sorted(rows, key=lambda row: row["started_at"])
        missing = [row["call_id"] for row in (*by_time[:4], *by_time[-4:], *by_time[::7])]
        query = sa.text("DELETE FROM call_words WHERE call_id = ANY(:missing)")
        db.execute(query, {"missing": missing})
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
@pytest.mark.parametrize("agents", [(), ("rare",)])
@pytest.mark.parametrize("window", [None, Window(NOW - timedelta(days=30), NOW)])
def test_pages_of_very_many_locations_have_every_call_once_in_order(
    engine: sa.Engine,
    stored: list[Key],
    window: Window | None,
    agents: tuple[str, ...],
    is_ascending: bool,
) -> None:
    scopes = [Scope(one, window) for one in LOCATIONS]
    wanted = CallFilter(scopes, agent_ids=agents, show=Show.LIVE, is_ascending=is_ascending)
    inside = [key for key in stored if window is None or key[0] in window]
    if agents:
        inside = [key for key in inside if int(key[2].removeprefix("call-")) % 3 == 0]
    expected = inside if is_ascending else inside[::-1]
    with engine.begin() as db:
        pages = list(walk(db, wanted))
        assert [key for page in pages for key in page] == expected
        assert {len(page) for page in pages[:-1]} == {LIMIT}
        behind = list(walk(db, wanted, back=True))
        assert [key for page in behind for key in page] == expected[-2::-1]


def test_each_location_keeps_its_own_windows_among_very_many(
    engine: sa.Engine, stored: list[Key]
) -> None:
    """As locations of several time zones have, and lists of single hours."""
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    scopes = [
        Scope(one, Window(NOW - (number % 3 + past) * hour - 30 * minute, NOW - past * hour))
        for number, one in enumerate(LOCATIONS)
        for past in (0, 4)
    ]
    of: dict[str, list[Window]] = {one: [] for one in LOCATIONS}
    for scope in scopes:
        assert scope.window
        of[scope.location_id].append(scope.window)
    expected = [key for key in stored[::-1] if any(key[0] in one for one in of[key[1]])]
    with engine.begin() as db:
        pages = walk(db, CallFilter(scopes))
        assert [key for page in pages for key in page] == expected


def test_a_page_of_very_many_locations_does_not_look_into_each(
    engine: sa.Engine, stored: list[Key]
) -> None:
    wanted = CallFilter([Scope(one) for one in LOCATIONS])
    with engine.begin() as db, counted(engine) as statements:
        assert len(call_search.page(db, wanted, LIMIT, now=NOW)) == LIMIT
    assert not any("LATERAL" in statement for statement in statements if "keys" in statement)


def test_calls_that_are_scattered_over_the_table_are_read_location_by_location(
    engine: sa.Engine, stored: list[Key]
) -> None:
    """Because finding those of one time would take too long."""
    with engine.begin() as db:
        call_search.be_patient(db)
        db.execute(sa.text("LOCK TABLE call_words"))
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(_first_page, engine).result()
    assert found == stored[::-1][:LIMIT]


def _first_page(engine: sa.Engine) -> list[Key]:
    wanted = CallFilter([Scope(one) for one in LOCATIONS])
    with engine.begin() as db:
        call_search.be_patient(db)
        rows = call_search.page(db, wanted, LIMIT, now=NOW)
        limit = db.execute(sa.text("SHOW statement_timeout")).scalar_one()
    assert limit == f"{call_search.PATIENCE // 1000}s"
    return [(row.started_at, row.location_id, row.call_id) for row in rows]
