"""The table after syncs of any list of calls, against a model that keeps whole lists in memory."""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.days import DayState, Window
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel import calls as highlevel
from voiceai_pipeline.highlevel.calls import Page
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.repetition import repeated, soak
from voiceai_pipeline_tests.support.synced_calls import DAYS, UTC_ZONE, midnight, table


@dataclass(frozen=True)
class Part:
    """A page before it is sent."""

    items: list[dict[str, Any]]
    total: int


@dataclass
class AnyList:
    """HighLevel's list of one location, in memory, while calls come, go and change between pages;
    and all that it has answered.

    Attributes:
        calls: items by any name; one may lack its id or its time.
        churn: before each request: how many vanish, arrive and change.
        reads: the responses of each read, oldest first, with the requested bounds.
    """

    chance: random.Random
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    churn: list[tuple[int, int, int]] = field(default_factory=list)
    newest_first: bool = False
    within: int = 1
    number: int = 0
    reads: list[tuple[datetime, datetime, list[Part]]] = field(default_factory=list)

    def page(self, start: datetime, end: datetime, number: int, size: int) -> Part:
        if self.churn:
            self.come_and_go(*self.churn.pop())
        listed = [item for item in self.calls.values() if self.is_asked_for(item, start, end)]
        listed.sort(key=lambda i: (i["createdAt"], i["duration"]), reverse=self.newest_first)
        page = Part(listed[(number - 1) * size : number * size], len(listed))
        if number == 1 and start + timedelta(seconds=1) in map(midnight, DAYS):  # a read begins
            self.reads.append((start, end, []))
        self.reads[-1][2].append(page)
        return page

    @staticmethod
    def is_asked_for(item: dict[str, Any], start: datetime, end: datetime) -> bool:
        said = item["createdAt"]
        return said == "" or start <= datetime.fromisoformat(said) <= end

    def come_and_go(self, vanish: int, arrive: int, change: int) -> None:
        names = sorted(self.calls)
        for name in self.chance.sample(names, min(vanish, len(names))):
            del self.calls[name]
        for _ in range(arrive):
            self.arrive()
        names = sorted(self.calls)
        for name in self.chance.sample(names, min(change, len(names))):
            self.calls[name] = self.calls[name] | {"summary": f"Change {self.chance.random()}"}

    def arrive(self, **fields: Any) -> None:
        self.number += 1
        day = midnight(self.chance.choice(DAYS))
        at = day + timedelta(milliseconds=self.chance.randrange(-1, self.within))
        item = {"id": f"id{self.number}", "createdAt": at.isoformat(timespec="milliseconds")}
        self.calls[f"{self.number}"] = item | {"duration": self.number} | fields


@dataclass
class Memory:
    """The model: what the table must hold, from whole lists kept in memory."""

    rows: dict[str, tuple[dict[str, Any], bool]] = field(default_factory=dict)

    def read(self, start: datetime, end: datetime, pages: list[Part]) -> bool:
        """Take over a read, if it adds up; False if it does not."""
        seen = {
            str(item.get("id") or item["duration"]): item for page in pages for item in page.items
        }
        if len(seen) != pages[0].total:
            return False
        window = Window(start + timedelta(seconds=1), end - timedelta(seconds=1))
        listed = {
            name: item
            for name, item in seen.items()
            if item.get("id")
            and item["createdAt"]
            and datetime.fromisoformat(item["createdAt"]) in window
        }
        for call_id, (item, _) in self.rows.items():
            if datetime.fromisoformat(item["createdAt"]) in window and call_id not in seen:
                self.rows[call_id] = (item, True)
        self.rows |= {call_id: (item, False) for call_id, item in listed.items()}
        return True


class Listing(HighLevelClient):
    """A client that reads a list in memory."""

    listed: AnyList

    def call_logs_page(
        self, token: Secret, location_id: str, start: datetime, end: datetime, page: int
    ) -> Page:
        part = self.listed.page(start, end, page, highlevel.PAGE_SIZE)
        return Page([highlevel.as_sent(item) for item in part.items], part.total)


@soak
@settings(max_examples=repeated(12, 100), suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    within=st.sampled_from([2, 12, 400, 86_400_000]),
    churn=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=12),
    odd=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    newest_first=st.booleans(),
)
def test_the_table_is_what_the_model_would_write(
    seed: int,
    count: int,
    within: int,
    churn: list[tuple[int, int, int]],
    odd: tuple[int, int],
    newest_first: bool,
    engine: sa.Engine,
    tokens: Tokens,
    clock: Clock,
    quiet_law: Connection,
    small_pages: None,
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same list every time
    listed = AnyList(chance, newest_first=newest_first, within=within)
    for _ in range(count):
        listed.arrive()
    for _ in range(odd[0]):
        listed.arrive(id="")
    for _ in range(odd[1]):
        listed.arrive(createdAt="")
    memory = Memory()
    with engine.begin() as db:
        db.execute(sa.text("DELETE FROM call_logs"))
    with Listing(highlevel_settings("http://127.0.0.1:9")) as client:
        client.listed = listed
        sync = Sync(engine, tokens, client, UTC_ZONE, now=clock)
        for shift in (churn, [], [(1, 1, 1)], []):
            clock.now += timedelta(minutes=1)
            before, known = table(engine), dict(memory.rows)
            listed.churn, listed.reads = list(shift), []
            results = sync.sync_days(DAYS, mode=Mode.REREAD)
            last = {read[:2]: read for read in listed.reads}
            took = [memory.read(*read) for read in last.values()]
            assert len(took) == (1 if took[0] else 1 + len(DAYS)), "a day alone only if all failed"
            assert [r.state is DayState.COMPLETE for r in results] == (took[1:] or [True] * 3)
            after = table(engine)
            assert {
                row["call_id"]: (row["raw"], row["missing_since"] is not None) for row in after
            } == memory.rows
            unchanged = [i for i, row in memory.rows.items() if known.get(i) == row]
            written = {row["call_id"]: row["written"] for row in before}
            assert {
                row["call_id"]: row["written"] for row in after if row["call_id"] in unchanged
            } == {i: written[i] for i in unchanged}
            for result in results:
                if result.state is DayState.COMPLETE:
                    of_day = {
                        i: row
                        for i, row in memory.rows.items()
                        if row[0]["createdAt"].startswith(str(result.day))
                    }
                    there = [i for i, (_, missing) in of_day.items() if not missing]
                    assert result.stored == len(there)
                    assert result.new == sum(i not in known for i in of_day)
                    assert result.missing == sum(
                        missing and not known.get(i, ({}, True))[1]
                        for i, (_, missing) in of_day.items()
                    )
                    assert result.changed == sum(
                        not missing and i in known and known[i][0] != item
                        for i, (item, missing) in of_day.items()
                    )


@pytest.fixture
def quiet_law(connect: Connector) -> Connection:
    return connect("Quiet Law")


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, batches and files so small that a few calls fill many."""
    monkeypatch.setattr(highlevel, "PAGE_SIZE", 5)
    monkeypatch.setattr("voiceai_pipeline.calls.intake._BATCH", 7)
    monkeypatch.setattr("voiceai_pipeline.calls.intake._IN_MEMORY", 500)
