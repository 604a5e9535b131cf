"""A day of the pipeline in a bad world: after it the tables equal HighLevel's own calls exactly.

    python -m benchmarks.soak [--seed N] [--users N] [--hours N] [--faults SHARE] [--api dated|v3]

A server and a sandbox of its own, 200 invented users, and 24 simulated hours in which one request
in twenty goes wrong in one of all the ways that the sandbox knows, locations are down for hours,
and calls arrive, are filled in late, are corrected and vanish. What Dagster's sensors and schedules
ask for is done at their times by the functions that they call. People do two things: whoever is
told that a connection needs them gives consent anew, half an hour later; and at 4:00 and 8:00 an
operator reruns the red days that say that it takes one, as "Failed and missing" does.

Two things are held to the sandbox's own calls: whatever turns green, at the moment it does, and all
tables at the end, when a night without faults is over. Exit code 1 if anything is not as promised.
"""

import argparse
import heapq
import logging
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from benchmarks.stormy_world import StormyWorld, cast
from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import RETRIED, RETRY_DELAYS
from voiceai_pipeline.calls.reconciliation import Reconciliation
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections import alerts
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.alert_delivery import Message, deliver
from voiceai_pipeline.connections.consent import Consent, ConsentError
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import REQUESTED_SCOPES, Connection, ConnectionState
from voiceai_pipeline.core.days import TRAILING_DAYS, DayResult, DayState, Window, stretches
from voiceai_pipeline.core.failures import FailureClass, PipelineError, Remedy
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import HighLevelSettings, PageSettings
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.redaction import redact
from voiceai_pipeline.sandbox.cast import (
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
    DemoUser,
)
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.server import running

DAY: Final = date(2026, 11, 18)
"""The day of the soak."""

HISTORY: Final = 8
"""Days before it that are stored when it begins: twice the trailing window."""

OLDEST: Final = datetime.combine(DAY - timedelta(days=HISTORY), datetime.min.time(), UTC)
"""Nothing older changes. The day before it is stored too: of the first day that is stored, a total
leaves out the calls at the very midnight (``calls/reconciliation.py``)."""

TICK: Final = timedelta(minutes=5)
ZONE: Final = ZoneInfo("UTC")
REDIRECT_URI: Final = "http://127.0.0.1:8791/oauth/callback"
PAGE: Final = PageSettings("127.0.0.1", 8791, "http://127.0.0.1:8791", "http://127.0.0.1:3000")

OUTAGES: Final = (
    "server_error",
    "html_502",
    "rate_limit",
    "reset",
    "truncated_json",
    "gzip_lie",
    "error_in_200",
    "gateway_timeout_401",
)


class Clock:
    """Simulated time. What sleeps on it moves it on; nothing sets it back."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += timedelta(seconds=seconds)
        time.sleep(0.001)  # whoever waits for another thread lets it run

    def reach(self, moment: datetime) -> None:
        with self._lock:
            self.now = max(self.now, moment)


def _unfinished(db: sa.Connection) -> dict[tuple[UUID, date], FailureClass | None]:
    """Every day that is not complete, by user, and why."""
    query = sa.text(
        "SELECT user_id, day, failure_class FROM sync_ledger WHERE state <> 'complete' "
        "ORDER BY day, user_id"
    )
    return {
        (row.user_id, row.day): row.failure_class and FailureClass(row.failure_class)
        for row in db.execute(query)
    }


@dataclass
class Red:
    """A user's day that is not complete."""

    since: datetime
    failure: FailureClass | None


@dataclass
class Tally:
    """What happened, and what should not have.

    Attributes:
        healed: how long red days that may pass by themselves took to become green.
        reconnections: by cause.
        reruns: red days that an operator had to rerun.
        wrong: promises that were broken, a sentence each.
    """

    red: dict[tuple[UUID, date], Red] = field(default_factory=dict)
    seen: Counter[FailureClass | None] = field(default_factory=Counter)
    healed: list[timedelta] = field(default_factory=list)
    waited: list[timedelta] = field(default_factory=list)
    reconnections: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
    reruns: int = 0
    greens: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Soak:
    """The pipeline's parts, the world, and whatever happens at which time."""

    world: StormyWorld
    clock: Clock
    engine: sa.Engine
    tokens: Tokens
    consent: Consent
    sync: Sync
    reconciliation: Reconciliation
    people: dict[UUID, DemoUser]
    chance: random.Random
    tally: Tally = field(default_factory=Tally)
    name: str = "people"
    _agenda: list[tuple[datetime, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _spent: set[str] = field(default_factory=set)
    _missed: set[UUID] = field(default_factory=set)

    # Time -----------------------------------------------------------------------------------------

    def at(self, moment: datetime, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._order), what))

    def run_until(self, end: datetime) -> None:
        """Do what is due, in order; what takes long makes the next late, as in life."""
        while self._agenda and self._agenda[0][0] <= end:
            moment, _, what = heapq.heappop(self._agenda)
            self.clock.reach(moment)
            self.world.still()
            what()
            self._look()
        self.clock.reach(end)

    def plan(self, begin: datetime, end: datetime) -> None:
        """The schedules and sensors, and life."""
        moment = begin
        while moment < end:
            self.at(moment, self.tick)
            moment += TICK
        for day in (DAY, DAY + timedelta(days=1)):
            midnight = datetime.combine(day, datetime.min.time(), UTC)
            daily = [(timedelta(minutes=15), self.yesterday_and_trailing_window)]
            daily += [(timedelta(hours=h, minutes=45), self.today_so_far) for h in range(1, 24, 2)]
            daily += [(timedelta(hours=3, minutes=30), self.reconcile)]
            daily += [(timedelta(hours=hour), self.operate) for hour in (4, 8)]
            for delay, what in daily:
                if begin <= midnight + delay < end:
                    self.at(midnight + delay, what)

    def live(self, begin: datetime, hours: int) -> None:
        """Calls change all day, and locations are down for a while."""
        for minute in range(2, hours * 60, 10):
            self.at(begin + timedelta(minutes=minute), self.calls_change)
        for _ in range(max(1, len(self.world.locations) * hours // 24 // 10)):
            down = begin + timedelta(minutes=self.chance.randrange(hours * 60))
            place = self.chance.choice(sorted(self.world.locations))
            self.at(down, lambda place=place: self.break_down(place))  # type: ignore[misc]

    # What sensors and schedules ask for -----------------------------------------------------------

    def _once(self, purpose: str, every: timedelta) -> bool:
        """A run key: True the first time in a bucket of time."""
        key = f"{purpose} {int(self.clock().timestamp() // every.total_seconds())}"
        if key in self._spent:
            return False
        self._spent.add(key)
        return True

    def tick(self) -> None:
        """The sensors: due tokens, failed days, days of who is back, alerts."""
        with self.engine.begin() as db:
            now = self.clock()
            due = [one.user.id for one in connections.due_for_refresh(db, now)]
            able = {one.user.id for one in connections.all_connections(db) if one.can_sync}
            due_days = ledger.failed_and_rested(db, able, RETRIED, RETRY_DELAYS, now, date.min)
            waiting = ledger.waiting(db, able, date.min)
        if due and self._once("refresh", timedelta(minutes=10)):
            self.tokens.refresh_due(due)
        self._resume("retry", due_days, timedelta(minutes=15))
        self._resume("fill", waiting, timedelta(minutes=5))
        told = deliver(self.engine, self, PAGE)
        if told.kept:
            self.tally.wrong.append(f"{told.kept} notices could not be told: {told.reasons}")

    def _resume(self, purpose: str, due: Sequence[tuple[UUID, date]], every: timedelta) -> None:
        days = sorted({day for _, day in due})
        for stretch in stretches(days)[:5]:
            if self._once(f"{purpose} {stretch[0]} {stretch[-1]}", every):
                users = sorted({user for user, day in due if day in stretch}, key=str)
                self._sync(stretch, Mode.ONLY_FAILED, users)

    def yesterday_and_trailing_window(self) -> None:
        today = self.clock().date()
        self._sync(
            [today - timedelta(days=n) for n in range(1 + TRAILING_DAYS, 0, -1)], Mode.REREAD
        )

    def today_so_far(self) -> None:
        self._sync([self.clock().date()], Mode.REREAD)

    def reconcile(self) -> None:
        self.reconciliation.reconcile(run_id="soak")

    def _sync(self, days: list[date], mode: Mode, users: list[UUID] | None = None) -> None:
        results = self.sync.sync_days(days, user_ids=users, mode=mode, run_id="soak")
        self._hold_greens_to_the_world(results)

    # What people do -------------------------------------------------------------------------------

    def operate(self) -> None:
        """Rerun what is never repeated by itself: HighLevel called our configuration wrong."""
        with self.engine.begin() as db:
            able = {one.user.id for one in connections.all_connections(db) if one.can_sync}
            unfinished = _unfinished(db)
        ours = [
            key
            for key, failure in unfinished.items()
            if key[0] in able and failure and failure.explanation.remedy is Remedy.OPERATOR
        ]
        self.tally.reruns += len(ours)
        self._resume("operate", ours, timedelta(hours=1))

    def send(self, message: Message) -> None:
        """Somebody reads a notice and does what it asks for (``alert_delivery.Channel``)."""
        if message.id in self.tally.notices:
            self.tally.wrong.append(f"told twice: {message.id}")
        self.tally.notices.append(message.id)
        with self.engine.begin() as db:
            broken = [
                one
                for one in connections.all_connections(db)
                if one.state is ConnectionState.NEEDS_RECONNECT
            ]
        for one in broken:
            if one.user.id not in self._missed:
                self._missed.add(one.user.id)
                self._find_cause(one)
                again = self.clock() + timedelta(minutes=30)
                self.at(again, lambda who=one.user.id: self.reconnect(who))  # type: ignore[misc]

    def _find_cause(self, one: Connection) -> None:
        place = self.people[one.user.id].installs_on
        lost = self.world.lost[place]
        if one.obstacle in (FailureClass.SCOPE_MISSING, FailureClass.WRONG_LOCATION) and (
            {place, one.location_id} & self.world.refused
        ):
            cause = "HighLevel said that scope or location are not theirs"
        elif one.obstacle is FailureClass.REFRESH_REJECTED and lost:
            cause = f"HighLevel lost its answer to a renewal {'once' if lost == 1 else 'twice'}"
        else:
            cause = "because of us"
            self.tally.wrong.append(f"{one.user.name} has to reconnect because of us: {one.cause}")
        self.tally.reconnections[cause] += 1

    def reconnect(self, user_id: UUID) -> None:
        """Consent in the browser, tried again until HighLevel takes it."""
        person = self.people[user_id]
        code = self.world.authorize(
            person.installs_on, person, list(REQUESTED_SCOPES), REDIRECT_URI
        )
        try:
            self.consent.connect(user_id, Secret(code), person.location_id)
        except (ConsentError, PipelineError):
            self.at(self.clock() + TICK, lambda: self.reconnect(user_id))
            return
        self.world.lost[person.installs_on] = 0
        self._missed.discard(user_id)

    # What calls and locations do ------------------------------------------------------------------

    def calls_change(self) -> None:
        """Corrected, vanished, and listed long after they were made; mostly in the days that are
        read again, now and then in an older one, where only the total shows it."""
        places = sorted(self.world.locations)
        for place in self.chance.sample(places, max(1, len(places) // 20)):
            at = self.clock() - timedelta(days=TRAILING_DAYS) * self.chance.random()
            first, last = max(at, self.world.settled_before), at + timedelta(hours=8)
            around = self.world.calls.between(place, first, min(last, self.clock()))
            what = self.chance.choice(("change", "vanish", "arrive", "old"))
            if what == "arrive":
                self.world.arrive(place, first)
            elif what == "old":
                self._change_something_old(place)
            elif around and what == "vanish":
                self.world.vanish(place, self.chance.choice(around)["id"])
            elif around:
                call_id = self.chance.choice(around)["id"]
                self.world.calls.change(place, call_id, summary=f"Corrected {self.chance.random()}")

    def _change_something_old(self, place: str) -> None:
        old = self.world.calls.between(place, OLDEST, self.world.settled_before)
        silent = self.world.envelope(self.world.locations[place]) == "no_total"
        if not old or silent or place in self.world.touched:
            return
        self.world.touched.add(place)
        if self.chance.random() < 0.5:
            self.world.vanish(place, self.chance.choice(old)["id"])
        else:
            span = self.world.settled_before - OLDEST
            self.world.arrive(place, OLDEST + span * self.chance.random())

    def break_down(self, place: str) -> None:
        kind: Any = self.chance.choice(OUTAGES)
        self.world.add_fault(Fault(kind, place, path="/voice-ai"))
        ends = self.clock() + timedelta(minutes=self.chance.randrange(20, 240))
        self.at(ends, lambda: self.world.heal(place) and None)

    # Looking --------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Which days are red, and since when."""
        with self.engine.begin() as db:
            unfinished = _unfinished(db)
        now = self.clock()
        for key in [key for key in self.tally.red if key not in unfinished]:
            red = self.tally.red.pop(key)
            person = red.failure is not None and red.failure.needs_action
            (self.tally.waited if person else self.tally.healed).append(now - red.since)
        for key, failure in unfinished.items():
            if key not in self.tally.red:
                self.tally.red[key] = Red(now, failure)
                self.tally.seen[failure] += 1
            elif failure is not None and failure.needs_action:
                self.tally.red[key].failure = failure

    @contextmanager
    def _as_of(self, moment: datetime) -> Iterator[None]:
        """The world as it told of itself then; only while nobody else looks."""
        now, self.clock.now = self.clock.now, moment
        try:
            yield
        finally:
            self.clock.now = now

    def _told(self, location_id: str, window: Window, moment: datetime) -> dict[str, Any]:
        with self._as_of(moment):
            items = self.world.calls.between(location_id, window.start, window.end)
        return {item["id"]: redact(item) for item in items}

    def _rows(self, location_id: str, window: Window) -> dict[str, sa.RowMapping]:
        query = sa.text(
            "SELECT call_id, raw, missing_since FROM call_logs WHERE location_id = :place "
            "AND started_at >= :start AND started_at < :end"
        )
        values = {"place": location_id, "start": window.start, "end": window.end}
        with self.engine.begin() as db:
            return {row["call_id"]: row for row in db.execute(query, values).mappings()}

    def _hold_greens_to_the_world(self, results: Iterable[DayResult]) -> None:
        """A day that is complete holds what HighLevel had from the read's beginning to its end."""
        for result in results:
            if result.state is not DayState.COMPLETE or not (
                result.read_until and result.started_at and result.finished_at
            ):
                continue
            self.tally.greens += 1
            place = result.location_id
            window = Window(Window.of_day(result.day, ZONE).start, result.read_until)
            then = self._told(place, window, result.started_at)
            later = self._told(place, window, result.finished_at)
            rows = self._rows(place, window)
            current = {i for i, row in rows.items() if row["missing_since"] is None}
            must = set(later) - self.world.added[place]
            may = set(later) | self.world.removed[place]
            if not must <= current <= may:
                self.tally.wrong.append(
                    f"{result.user.name}, {result.day}: green with {len(must - current)} calls too "
                    f"few and {len(current - may)} too many"
                )
            stale = [i for i in current & must if rows[i]["raw"] not in (then.get(i), later.get(i))]
            if stale:
                self.tally.wrong.append(
                    f"{result.user.name}, {result.day}: green with {len(stale)} stale calls"
                )

    def hold_everything_to_the_world(self, days: Sequence[date]) -> int:
        """At the end: every day green, every call there, as it was last told; how many calls."""
        wrong, total = self.tally.wrong, 0
        for report in self.sync.report(days):
            if not report.is_green or report.waiting:
                unhappy = [*report.failed, *report.waiting]
                wrong += [f"{r.user.name}, {r.day}: {r.state}, {r.message}" for r in unhappy]
                wrong += [f"{user.name}, {report.day}: unread" for user in report.unread]
            read: dict[str, DayResult] = {}
            for row in report.complete:
                before = read.get(row.location_id)
                if before is None or (row.started_at or self.clock()) > (
                    before.started_at or self.clock()
                ):
                    read[row.location_id] = row
            for place, row in read.items():
                if row.read_until is None or row.started_at is None:
                    continue
                window = Window(Window.of_day(row.day, ZONE).start, row.read_until)
                told = self._told(place, window, row.started_at)
                rows = self._rows(place, window)
                held = {i: r["raw"] for i, r in rows.items() if r["missing_since"] is None}
                total += len(held)
                if held != told:
                    few, many = len(told.keys() - held.keys()), len(held.keys() - told.keys())
                    stale = sum(held[i] != told[i] for i in held.keys() & told.keys())
                    wrong.append(
                        f"{place}, {row.day}: {few} calls too few, {many} too many, {stale} stale, "
                        f"read at {row.started_at:%d. %H:%M}"
                    )
                strange = {
                    i for i, r in rows.items() if r["missing_since"] and (place, i) not in
                    self.world.gone
                }  # fmt: skip
                if strange:
                    wrong.append(f"{place}, {row.day}: {len(strange)} calls wrongly missing")
        with self.engine.begin() as db:
            for one in connections.all_connections(db):
                if one.state is not ConnectionState.CONNECTED:
                    wrong.append(f"{one.user.name} is {one.state} at the end")
            untold = alerts.pending(db, self.name)
            twice = db.execute(
                sa.text(
                    "SELECT count(*) FROM (SELECT FROM token_events WHERE event = 'replay_began' "
                    "GROUP BY user_id, version_before HAVING count(*) > 1) AS x"
                )
            ).scalar_one()
        if untold:
            wrong.append(f"{len(untold)} notices were never told")
        if twice:
            wrong.append(f"{twice} refresh tokens were replayed more than once")
        return total


@contextmanager
def opened(
    users: int, seed: int, api: str, server: EmbeddedPostgres, home: Path, patience: float
) -> Iterator[Soak]:
    """All parts, on a database of their own.

    Args:
        home: a folder for the spool.
        patience: real seconds that a read waits; a stall lasts longer.
    """
    people, places = cast(users, seed)
    clock = Clock(datetime.combine(DAY, datetime.min.time(), UTC) - timedelta(days=1))
    name = f"soak_{seed}_{users}"
    server.create_database(name)
    with ExitStack() as stack:
        world = StormyWorld(seed, clock=clock, users=people, locations=places)
        world.oldest = OLDEST
        sandbox = stack.enter_context(running(world, limits=False))
        engine = open_engine(Secret(server.url(name)))
        stack.callback(engine.dispose)
        migrate.upgrade(engine)
        client = stack.enter_context(
            HighLevelClient(
                HighLevelSettings(
                    client_id=SANDBOX_CLIENT_ID,
                    client_secret=Secret(SANDBOX_CLIENT_SECRET),
                    redirect_uri=REDIRECT_URI,
                    auth_url=f"{sandbox.url}/v2/oauth/chooselocation",
                    token_url=f"{sandbox.url}/oauth/token",
                    api_url=sandbox.url,
                    api_version=api,
                    is_sandbox=True,
                ),
                sleep=clock.sleep,
                read_timeout=patience,
                token_timeout=4 * patience,
            )
        )
        vault = TokenVault({"soak": b"k" * 32})
        spool = Spool(home / "spool", vault)
        tokens = Tokens(engine, vault, client, spool=spool, now=clock, sleep=clock.sleep)
        with engine.begin() as db:
            for person in people:
                connections.add_user(db, UUID(person.id), business_name=person.business_name)
        yield Soak(
            world=world,
            clock=clock,
            engine=engine,
            tokens=tokens,
            consent=Consent(engine, vault, client, spool=spool, now=clock),
            sync=Sync(engine, tokens, client, ZONE, now=clock),
            reconciliation=Reconciliation(engine, tokens, client, ZONE, now=clock),
            people={UUID(person.id): person for person in people},
            chance=random.Random(seed),  # noqa: S311
        )


def soak(one: Soak, hours: int, share: float) -> list[tuple[str, str]]:
    """Live through it; the table of what happened. What went wrong is in ``one.tally.wrong``."""
    began = time.monotonic()
    midnight = datetime.combine(DAY, datetime.min.time(), UTC)
    end = midnight + timedelta(days=1)
    begin = end - timedelta(hours=hours)
    calm = end + timedelta(hours=4, minutes=30)
    # Everybody connects in the day before, so that every token ends within the day of the soak.
    for n, user_id in enumerate(one.people):
        one.clock.reach(begin - timedelta(hours=22) + timedelta(hours=21) * n / len(one.people))
        one.reconnect(user_id)
    one.clock.reach(begin - timedelta(minutes=30))
    days = [DAY - timedelta(days=n) for n in range(HISTORY + 1, -1, -1)]
    one.sync.sync_days(days[:-1])
    one.world.settled_before = midnight - timedelta(days=TRAILING_DAYS)

    one.plan(begin, calm)
    one.live(begin, hours)
    one.world.share = share
    one.run_until(end)
    one.world.share = 0
    one.world.clear_faults()
    posts_in_storm = one.world.asked[TOKEN_PATH]
    one.run_until(calm)
    calls = one.hold_everything_to_the_world([*days, DAY + timedelta(days=1)])
    return [*_facts(one, calls), ("POSTs to the token endpoint", str(posts_in_storm)),
            ("seconds it took", f"{time.monotonic() - began:.0f}")]  # fmt: skip


def _facts(one: Soak, calls: int) -> list[tuple[str, str]]:
    tally, world = one.tally, one.world
    with one.engine.begin() as db:
        query = sa.text("SELECT event, count(*) AS times FROM token_events GROUP BY event")
        events = {row.event: row.times for row in db.execute(query)}
        missing = db.execute(
            sa.text("SELECT count(*) FROM call_logs WHERE missing_since IS NOT NULL")
        ).scalar_one()
    return [
        ("users, locations", f"{len(one.people)}, {len(world.locations)}"),
        ("requests", f"{world.asked.total():,}"),
        ("faults injected", f"{world.injected.total()}"),
        *((f"  {kind}", str(number)) for kind, number in world.injected.most_common()),
        ("calls at the end, vanished", f"{calls:,}, {missing}"),
        ("greens held to the world", f"{tally.greens:,}"),
        ("red days seen", str(tally.seen.total())),
        *((f"  {kind}", str(number)) for kind, number in tally.seen.most_common()),
        ("healed by themselves, median and max", _durations(tally.healed)),
        ("healed after a person, median and max", _durations(tally.waited)),
        ("rerun by an operator", str(tally.reruns)),
        ("not healed", str(len(tally.red))),
        ("reconnections", str(tally.reconnections.total())),
        *((f"  {cause}", str(number)) for cause, number in tally.reconnections.most_common()),
        ("notices", str(len(tally.notices))),
        ("renewals, replays", f"{events.get('refreshed', 0)}, {events.get('replay_began', 0)}"),
    ]


def _durations(spans: Sequence[timedelta]) -> str:
    if not spans:
        return "0"
    minutes = [span / timedelta(minutes=1) for span in spans]
    return f"{len(spans)}: {statistics.median(minutes):.0f} min, {max(minutes):.0f} min"


def main() -> int:
    """Print the table and what went wrong; 1 if anything did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--hours", type=int, default=24, help="of faults; a calm night follows")
    parser.add_argument("--faults", type=float, default=0.05, help="share of all requests")
    parser.add_argument("--api", choices=("dated", "v3"), default="dated")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        EmbeddedPostgres.hold(Path(home), durable=False) as server,
        opened(asked.users, asked.seed, asked.api, server, Path(home), patience=1.0) as one,
    ):
        for what, figure in soak(one, asked.hours, asked.faults):
            sys.stdout.write(f"{what:56}{figure:>24}\n")
        wrong = one.tally.wrong
    for sentence in wrong[:50]:
        sys.stdout.write(f"WRONG: {sentence}\n")
    verdict = f"{len(wrong)} promises broken" if wrong else "all as promised"
    sys.stdout.write(f"seed {asked.seed}: {verdict}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
