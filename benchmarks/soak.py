"""Simulates a day of faults, after which the tables must equal HighLevel's own calls exactly.

    python -m benchmarks.soak [--seed N] [--users N] [--hours N] [--faults SHARE] [--api dated|v3]

It starts a database server and a sandbox with 200 invented users, and simulates 24 hours. One
request in twenty fails, in one of all the ways that the sandbox knows; locations are down for
hours; calls arrive, are completed late, are corrected and vanish. The functions that Dagster's
sensors and schedules use are called at their times. Humans do two things: an alerted user
reconnects half an hour later, and at 4:00 and 8:00 an operator reruns the red days that need it, as
"Failed and missing" does.

The tables are compared with the sandbox's own calls whenever a day turns green, and completely at
the end of a night without faults. The exit code is 1 if anything is not as promised.
"""

import argparse
import heapq
import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from benchmarks.soak_checks import Checks, unfinished
from benchmarks.soak_report import Tally, facts
from benchmarks.soak_time import DAY, HISTORY, MIDNIGHT, OLDEST, TICK, ZONE, Clock
from benchmarks.stormy_world import StormyWorld, cast
from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.day_status import RETRIED, RETRY_DELAYS
from voiceai_pipeline.calls.reconciliation import Reconciliation
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.alert_delivery import deliver
from voiceai_pipeline.connections.alert_messages import Message
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.consent_errors import ConsentError
from voiceai_pipeline.connections.spool import Spool
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import REQUESTED_SCOPES, Connection, ConnectionState
from voiceai_pipeline.core.days import TRAILING_DAYS, stretches
from voiceai_pipeline.core.failures import FailureClass, PipelineError, Remedy
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import HighLevelSettings, PageSettings
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.cast import (
    SANDBOX_APP_VERSION_ID,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
    DemoUser,
)
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.server import running

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


@dataclass
class Soak:
    """The pipeline's parts, the world, and the agenda of what happens when."""

    world: StormyWorld
    clock: Clock
    engine: sa.Engine
    tokens: Tokens
    consent: Consent
    sync: Sync
    reconciliation: Reconciliation
    users: dict[UUID, DemoUser]
    chance: random.Random
    tally: Tally = field(default_factory=Tally)
    name: str = "humans"
    _agenda: list[tuple[datetime, int, Callable[[], object]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _spent: set[str] = field(default_factory=set)
    _alerted: set[UUID] = field(default_factory=set)

    @property
    def checks(self) -> Checks:
        return Checks(self.world, self.clock, self.engine, self.tally)

    # Time -----------------------------------------------------------------------------------------

    def at(self, moment: datetime, what: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._order), what))

    def run_until(self, end: datetime) -> None:
        """Do what is due, in order. Whatever takes long delays what comes next."""
        while self._agenda and self._agenda[0][0] <= end:
            moment, _, what = heapq.heappop(self._agenda)
            self.clock.reach(moment)
            self.world.still()
            what()
            self.checks.note_red_days()
        self.clock.reach(end)

    def plan(self, begin: datetime, end: datetime) -> None:
        """Put the ticks of all sensors, the schedules and the operator's hours on the agenda."""
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
            self.at(begin + timedelta(minutes=minute), self.change_calls)
        for _ in range(max(1, len(self.world.locations) * hours // 24 // 10)):
            down = begin + timedelta(minutes=self.chance.randrange(hours * 60))
            location = self.chance.choice(sorted(self.world.locations))
            self.at(down, partial(self.break_down, location))

    def change_calls(self) -> None:
        self.world.change_calls(self.chance, timedelta(days=TRAILING_DAYS))

    def break_down(self, location_id: str) -> None:
        kind: Any = self.chance.choice(OUTAGES)
        self.world.add_fault(Fault(kind, location_id, path="/voice-ai"))
        end = self.clock() + timedelta(minutes=self.chance.randrange(20, 240))
        self.at(end, partial(self.world.heal, location_id))

    # What sensors and schedules request -----------------------------------------------------------

    def _once(self, purpose: str, every: timedelta) -> bool:
        """Like a run key: True the first time for ``purpose`` in each interval of ``every``."""
        key = f"{purpose} {int(self.clock().timestamp() // every.total_seconds())}"
        if key in self._spent:
            return False
        self._spent.add(key)
        return True

    def tick(self) -> None:
        """Do what the sensors do: due tokens, failed days, days of reconnected users, alerts."""
        with self.engine.begin() as db:
            now = self.clock()
            due = [one.user.id for one in connections.due_for_refresh(db, now)]
            able = {one.user.id for one in connections.all_connections(db) if one.can_sync}
            due_days = ledger.due_for_retry(db, able, RETRIED, RETRY_DELAYS, now, date.min)
            waiting = ledger.waiting(db, able, date.min)
        if due and self._once("refresh", timedelta(minutes=10)):
            self.tokens.refresh_due(due)
        self._resume("retry", due_days, timedelta(minutes=15))
        self._resume("fill", waiting, timedelta(minutes=5))
        delivery = deliver(self.engine, self, PAGE)
        if delivery.kept:
            self.tally.wrong.append(
                f"{delivery.kept} alerts could not be delivered: {delivery.reasons}"
            )

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
        self.checks.check_green_days(results)

    # What humans do -------------------------------------------------------------------------------

    def operate(self) -> None:
        """Rerun days that are never retried automatically: HighLevel rejected our configuration."""
        with self.engine.begin() as db:
            able = {one.user.id for one in connections.all_connections(db) if one.can_sync}
            not_complete = unfinished(db)
        ours = [
            key
            for key, failure in not_complete.items()
            if key[0] in able and failure and failure.explanation.remedy is Remedy.OPERATOR
        ]
        self.tally.reruns += len(ours)
        self._resume("operate", ours, timedelta(hours=1))

    def send(self, message: Message) -> None:
        """A user reads an alert and does what it asks (``alert_channels.Channel``)."""
        if message.id in self.tally.alerts:
            self.tally.wrong.append(f"alerted twice: {message.id}")
        self.tally.alerts.append(message.id)
        with self.engine.begin() as db:
            broken = [
                one
                for one in connections.all_connections(db)
                if one.state is ConnectionState.NEEDS_RECONNECT
            ]
        for one in broken:
            if one.user.id not in self._alerted:
                self._alerted.add(one.user.id)
                self._find_cause(one)
                self.at(self.clock() + timedelta(minutes=30), partial(self.reconnect, one.user.id))

    def _find_cause(self, one: Connection) -> None:
        location = self.users[one.user.id].installs_on
        lost = self.world.lost[location]
        if one.obstacle in (FailureClass.SCOPE_MISSING, FailureClass.WRONG_LOCATION) and (
            {location, one.location_id} & self.world.refused
        ):
            cause = "HighLevel denied the scope or the location"
        elif one.obstacle is FailureClass.REFRESH_REJECTED and lost:
            cause = f"HighLevel lost its answer to a refresh {'once' if lost == 1 else 'twice'}"
        else:
            cause = "our fault"
            self.tally.wrong.append(f"{one.user.name} must reconnect by our fault: {one.cause}")
        self.tally.reconnections[cause] += 1

    def reconnect(self, user_id: UUID) -> None:
        """Give consent as in the browser; retried until HighLevel accepts it."""
        user = self.users[user_id]
        code = self.world.authorize(user.installs_on, user, list(REQUESTED_SCOPES), REDIRECT_URI)
        try:
            self.consent.connect(user_id, Secret(code), user.location_id)
        except (ConsentError, PipelineError):
            self.at(self.clock() + TICK, partial(self.reconnect, user_id))
            return
        self.world.lost[user.installs_on] = 0
        self._alerted.discard(user_id)


@contextmanager
def opened(
    users: int, seed: int, api: str, server: EmbeddedPostgres, home: Path, patience: float
) -> Iterator[Soak]:
    """All parts, on a database of their own.

    Args:
        home: a folder for the spool.
        patience: real seconds that a read waits; a stall lasts longer.
    """
    members, locations = cast(users, seed)
    clock = Clock(MIDNIGHT - timedelta(days=1))
    name = f"soak_{seed}_{users}"
    server.create_database(name)
    with ExitStack() as stack:
        world = StormyWorld(seed, clock=clock, users=members, locations=locations)
        world.oldest = OLDEST
        sandbox = stack.enter_context(running(world, limits=False))
        engine = open_engine(Secret(server.url(name)))
        stack.callback(engine.dispose)
        migrate.upgrade(engine)
        client = stack.enter_context(
            HighLevelClient(
                HighLevelSettings(
                    client_id=SANDBOX_CLIENT_ID,
                    app_version_id=SANDBOX_APP_VERSION_ID,
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
            for user in members:
                connections.add_user(db, UUID(user.id), business_name=user.business_name)
        yield Soak(
            world=world,
            clock=clock,
            engine=engine,
            tokens=tokens,
            consent=Consent(engine, vault, client, spool=spool, now=clock),
            sync=Sync(engine, tokens, client, ZONE, now=clock),
            reconciliation=Reconciliation(engine, tokens, client, ZONE, now=clock),
            users={UUID(user.id): user for user in members},
            chance=random.Random(seed),  # noqa: S311
        )


def soak(one: Soak, hours: int, share: float) -> list[tuple[str, str]]:
    """Run a soak; returns the table of what happened. ``one.tally.wrong`` has broken promises."""
    started = time.monotonic()
    end = MIDNIGHT + timedelta(days=1)
    begin = end - timedelta(hours=hours)
    calm = end + timedelta(hours=4, minutes=30)
    # All users connect on the day before, so that every token expires within the day of the soak.
    for n, user_id in enumerate(one.users):
        one.clock.reach(begin - timedelta(hours=22) + timedelta(hours=21) * n / len(one.users))
        one.reconnect(user_id)
    one.clock.reach(begin - timedelta(minutes=30))
    days = [DAY - timedelta(days=n) for n in range(HISTORY + 1, -1, -1)]
    one.sync.sync_days(days[:-1])
    one.world.settled_before = MIDNIGHT - timedelta(days=TRAILING_DAYS)

    one.plan(begin, calm)
    one.live(begin, hours)
    one.world.share = share
    one.run_until(end)
    one.world.share = 0
    one.world.clear_faults()
    posts_in_storm = one.world.asked[TOKEN_PATH]
    one.run_until(calm)
    reports = one.sync.report([*days, DAY + timedelta(days=1)])
    calls = one.checks.check_everything(reports, one.name)
    return [
        *facts(one.tally, one.world, one.engine, len(one.users), calls),
        ("POSTs to the token endpoint", str(posts_in_storm)),
        ("seconds it took", f"{time.monotonic() - started:.0f}"),
    ]


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
