"""One odd value costs itself: the other calls of its day are stored (REQUIREMENTS S14)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.marts.build import Marts
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.list_server import (
    CallListing,
    Listed,
    ListServer,
    add_location,
    ordinary,
    sync_from,
)
from voiceai_pipeline_tests.support.synced_calls import DAY, UTC_ZONE, digest, midnight

NINE = [Listed.of(ordinary(f"n{n}", 60 * n)) for n in range(9)]
LATE = midnight(DAY) + timedelta(minutes=601)


@dataclass(frozen=True)
class Odd:
    """An item listed with nine ordinary calls.

    Attributes:
        stored: what the table holds of it, by column; None: it is set aside.
        reason: why it is set aside.
    """

    what: str
    text: str
    stored: dict[str, Any] | None = field(default_factory=dict)
    reason: str = ""

    @property
    def remark(self) -> str:
        """What the ledger says of the day."""
        if self.stored is None:
            return "1 item is set aside"
        return "1 duration cannot be right" if self.stored == UNKNOWN else ""


def odd(what: str, stored: dict[str, Any] | None, reason: str = "", **fields: Any) -> Odd:
    return Odd(what, json.dumps(ordinary(**fields)), stored, reason)


def with_text(what: str, member: str, text: str, stored: dict[str, Any]) -> Odd:
    """With JSON that Python does not write."""
    return Odd(what, json.dumps(ordinary(**{member: "@"})).replace('"@"', text), stored)


UNKNOWN = {"duration_seconds": None}
YEAR = "the call's createdAt is not between 2015 and 2100"

ITEMS = [
    odd("a duration that is a time", UNKNOWN, duration=1763632800000),
    odd("a duration of 1e17", UNKNOWN, duration=1e17),
    odd("a negative duration", UNKNOWN, duration=-3600),
    odd("a duration that is a flag", UNKNOWN, duration=True),
    odd("a duration as text", {"duration_seconds": 65.0}, duration="65"),
    odd("a time in the year 1", None, YEAR, createdAt="0001-01-01T00:00:00Z"),
    odd("a time in 1970", None, YEAR, createdAt="1970-01-01T00:00:00.000Z"),
    odd("a time in 9999", None, YEAR, createdAt="9999-12-31T23:59:59Z"),
    odd("a time of 0", None, YEAR, createdAt=0),
    odd("a time of another day", None, "its time is not in these days",
        createdAt="2026-11-01T10:00:00Z"),
    odd("a time without a zone", {"started_at": datetime(2026, 11, 18, 5, tzinfo=UTC)},
        createdAt="2026-11-18T05:00:00"),
    odd("a number as id", {"call_id": "123456"}, id=123456),
    odd("a blank id", None, "the call has no id", id=" "),
    odd("a long id", None, "the call's id has 9000 characters", id="x" * 9000),
    odd("a long agent", {"agent_id": None}, agentId="".join(map(chr, range(200, 9200)))),
    odd("a NUL and half a character", {"agent_id": "a\ufffd"}, agentId="a\0", summary="\ud800"),
    odd("a caller as number", {"from_number": "15550100001"}, fromNumber=15550100001),
    odd("actions of any kind", {}, executedCallActions=[
        1, None, [], {"actionType": 5, "actionName": "".join(map(chr, range(200, 9200)))},
        {"actionType": "SMS", "executedAt": "99999-12-31T23:59:59Z", "triggerReceivedAt": {}},
        {"actionType": "SMS", "executedAt": "0001-01-01T00:00:00Z", "triggerReceivedAt": 5},
    ]),
    with_text("an integer of 5,000 digits", "extractedData", '{"n": %s}' % ("9" * 5000),
              {"extracted_data": {"n": "9" * 5000}}),
    with_text("data nested 3,000 levels deep", "extractedData", "[" * 3000 + "]" * 3000, {}),
    with_text("a duration beyond any number", "duration", "1e999", UNKNOWN),
]  # fmt: skip


@pytest.fixture
def server() -> Iterator[ListServer]:
    with ListServer() as server:
        yield server


@pytest.fixture
def listed_sync(
    server: ListServer, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> Iterator[Sync]:
    client, sync = sync_from(server, engine, vault, clock)
    with client:
        yield sync


def test_one_odd_item_costs_itself_at_most(
    server: ListServer, listed_sync: Sync, engine: sa.Engine, clock: Clock
) -> None:
    for number, case in enumerate(ITEMS, 1):
        server.locations[f"Loc{number}"] = CallListing([*NINE, Listed(LATE, case.text)])
        add_location(engine, number, f"Loc{number}")
    results = {row.location_id: row for row in listed_sync.sync_days([DAY])}
    with engine.connect() as db:
        rows = {
            (row.location_id, row.call_id): row._mapping
            for row in db.execute(sa.text("SELECT * FROM call_logs"))
        }
        asides = dict(db.execute(sa.text("SELECT location_id, reason FROM set_aside_calls")).all())
    for number, case in enumerate(ITEMS, 1):
        here = f"Loc{number}"
        result = results[here]
        assert result.state is DayState.COMPLETE, case.what
        aside = int(case.stored is None)
        assert (result.api_total, result.stored, result.set_aside) == (10, 10 - aside, aside)
        assert all((here, f"n{n}") in rows for n in range(9)), case.what
        assert asides.get(here, "") == case.reason, case.what
        assert result.message.startswith(case.remark), case.what
        assert (case.remark == "") == (result.message == ""), case.what
        if case.stored is not None:
            row = rows[here, case.stored.get("call_id", "call-1")]
            assert {name: row[name] for name in case.stored} == case.stored, case.what

    built = Marts(engine, UTC_ZONE, MetricRules(), now=clock).build([DAY])
    assert (built.disagreements, built.failures) == ((), ())
    with engine.connect() as db:
        query = "SELECT location_id, calls, talk_seconds FROM daily_call_metrics"
        marts = {row[0]: (row[1], row[2]) for row in db.execute(sa.text(query))}
    for number, case in enumerate(ITEMS, 1):
        known = 9 if case.stored in (None, UNKNOWN) else 10
        assert marts[f"Loc{number}"] == (9 if case.stored is None else 10, known * 65), case.what

    before = digest(engine)
    listed_sync.sync_days([DAY], mode=Mode.REREAD)
    assert digest(engine) == before


def test_a_call_that_the_database_refuses_is_set_aside_by_name(
    server: ListServer, listed_sync: Sync, engine: sa.Engine
) -> None:
    """By whatever rule of its own: here an index over an expression that divides by zero."""
    with engine.begin() as db:
        db.execute(sa.text("CREATE INDEX ON call_logs ((1 / (duration_seconds - 66)))"))
    refused = Listed.of(ordinary("refused", 700, duration=66))
    server.locations |= {"LocBad": CallListing([*NINE, refused]), "LocGood": CallListing(NINE)}
    for number, location_id in enumerate(server.locations, 1):
        add_location(engine, number, location_id)
    days = [DAY - timedelta(days=1), DAY]
    for _ in range(2):  # and a rerun says the same
        results = {
            (row.location_id, row.day): row for row in listed_sync.sync_days(days, mode=Mode.REREAD)
        }
        assert {row.state for row in results.values()} == {DayState.COMPLETE}
        row = results["LocBad", DAY]
        assert (row.api_total, row.stored, row.set_aside) == (10, 9, 1)
        assert results["LocGood", DAY].set_aside == results["LocBad", days[0]].set_aside == 0
        with engine.connect() as db:
            (aside,) = db.execute(sa.text("SELECT raw, reason FROM set_aside_calls")).all()
        assert aside.raw == {"id": "refused"}
        assert aside.reason == "PostgreSQL cannot store it (SQLSTATE 22012)"


LISTS = {
    "20 a page": CallListing([], page_size=20),
    "20 a page, no total": CallListing([], page_size=20, total=None),
    "one hidden, no total": CallListing([], hidden=1, total=None),
    "a capped total": CallListing([], total=lambda count: min(count, 100)),
    "a total of 0": CallListing([], total=lambda _count: 0),
    "a total of -1": CallListing([], total=lambda _count: -1),
    "a total of 10^30": CallListing([], total=lambda _count: 10**30),
    "a byte order mark": CallListing([], prefix=b"\xef\xbb\xbf"),
    "a call listed twice": CallListing([]),
}


def test_all_that_is_listed_is_stored_and_what_contradicts_it_is_said(
    server: ListServer, listed_sync: Sync, engine: sa.Engine
) -> None:
    items = [Listed.of(ordinary(f"n{n:03}", n)) for n in range(160)]
    for number, (what, listing) in enumerate(LISTS.items(), 1):
        twice = items[:1] if what == "a call listed twice" else []
        server.locations[what] = listing
        listing.items = [*items, *twice]
        add_location(engine, number, what)
    results = {row.location_id: row for row in listed_sync.sync_days([DAY])}
    assert {row.state for row in results.values()} == {DayState.COMPLETE}
    assert {row.stored for row in results.values()} == {160}
    said = {what: (row.api_total, row.message.partition(";")[0]) for what, row in results.items()}
    no_total = (None, "HighLevel gave no total")
    contradicted = "HighLevel gave a total of {}, but lists 160 calls"
    assert said == {
        "20 a page": (160, ""),
        "20 a page, no total": no_total,
        "one hidden, no total": no_total,
        "a capped total": (100, contradicted.format(100)),
        "a total of 0": (0, contradicted.format(0)),
        "a total of -1": no_total,
        "a total of 10^30": no_total,
        "a byte order mark": (160, ""),
        "a call listed twice": (161, "1 call is listed more than once"),
    }
