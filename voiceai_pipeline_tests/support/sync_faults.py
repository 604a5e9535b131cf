"""Faults on the way from HighLevel to the tables, and the stage on which they happen: a user whose
three days are stored, and news of whom HighLevel has.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.ledger import UserStatus
from voiceai_pipeline.calls.location_queue import Terms
from voiceai_pipeline.calls.sync import Mode, Sync
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.days import DayResult, Window
from voiceai_pipeline.database.embedded import EmbeddedPostgres, stop
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.faults import CALL_LOGS, Fault, Kind
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.moving_world import Moving
from voiceai_pipeline_tests.support.synced_calls import DAYS, HARBOR, MS, UTC_ZONE, midnight

NAME = "Harbor Dental"

WINDOW = Window(midnight(DAYS[0]), midnight(DAYS[-1] + timedelta(days=1)))


@dataclass
class Stage:
    """A user whose three days are stored, and of whom HighLevel has something new to tell.

    Attributes:
        home: of the database server, where it is this test's own.
        api: another address of the API than the sandbox's.
    """

    engine: sa.Engine
    vault: TokenVault
    sandbox: RunningSandbox
    world: Moving
    clock: Clock
    home: Path | None = None
    api: str = ""
    holders: list[EmbeddedPostgres] = field(default_factory=list)

    @contextmanager
    def client(self) -> Iterator[HighLevelClient]:
        settings = highlevel_settings(self.sandbox.url)
        with HighLevelClient(
            replace(settings, api_url=self.api) if self.api else settings,
            retry=Retry(attempts=2),
            sleep=self.clock.sleep,
            token_timeout=1,
            read_timeout=0.3,
        ) as client:
            yield client

    def sync(self, mode: Mode = Mode.REREAD) -> list[DayResult]:
        with self.client() as client:
            tokens = Tokens(self.engine, self.vault, client, now=self.clock)
            second = timedelta(seconds=1)
            terms = Terms(lease=3 * second, outage=second, poll=0.1)
            sync = Sync(self.engine, tokens, client, UTC_ZONE, now=self.clock, terms=terms)
            return sync.sync_days(DAYS, mode=mode)

    def consent(self) -> None:
        with self.client() as client:
            consent = Consent(self.engine, self.vault, client, now=self.clock)
            connector = Connector(self.engine, client, consent)
            connector(NAME)
            connector.browser.close()

    def colours(self) -> set[bool]:
        with self.client() as client:
            tokens = Tokens(self.engine, self.vault, client, now=self.clock)
            sync = Sync(self.engine, tokens, client, UTC_ZONE, now=self.clock)
            return {report.is_green for report in sync.report(DAYS)}

    def ledger(self) -> tuple[list[DayResult], UserStatus]:
        with self.engine.connect() as db:
            (status,) = ledger.statuses(db).values()
            return ledger.results(db, days=DAYS), status

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as db:
            for statement in statements:
                db.execute(sa.text(statement))

    def restart_server(self) -> None:
        assert self.home is not None
        stop(self.home)
        self.holders.append(EmbeddedPostgres.hold(self.home, durable=False))


Faulty = Callable[[Stage], contextlib.AbstractContextManager[None]]


def highlevel(kind: Kind, **details: Any) -> Faulty:
    """From the second page on, HighLevel always responds like this."""

    @contextmanager
    def fault(stage: Stage) -> Iterator[None]:
        stage.world.add_fault(Fault(kind, HARBOR, after=1, path=CALL_LOGS, **details))
        yield
        stage.world.clear_faults()

    return fault


def address(url: Callable[[], str]) -> Faulty:
    """The API has another address."""

    @contextmanager
    def fault(stage: Stage) -> Iterator[None]:
        stage.api = url()
        yield
        stage.api = ""

    return fault


@contextmanager
def paused(stage: Stage) -> Iterator[None]:
    stage.world.pause(HARBOR)
    yield
    stage.world.resume(HARBOR)
    stage.clock.now += timedelta(hours=6)
    with stage.client() as client:
        tokens = Tokens(stage.engine, stage.vault, client, now=stage.clock)
        (row, *_), _ = stage.ledger()
        tokens.refresh_due([row.user.id])


@contextmanager
def calls_that_keep_coming(stage: Stage) -> Iterator[None]:
    """Each page brings a call that was not counted with the first; no day is read with one."""

    def one_more() -> None:
        for day in DAYS:
            stage.world.calls.add(HARBOR, midnight(day + timedelta(days=1)) - MS)

    with stage.world.while_asked(one_more):
        yield


def while_writing(strike: Callable[[Stage, int], None]) -> Faulty:
    """Something happens to the database while a backend, of the given pid, writes calls."""

    @contextmanager
    def fault(stage: Stage) -> Iterator[None]:
        stage.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$",
            "CREATE TRIGGER slow AFTER INSERT OR UPDATE ON call_logs "
            "FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )

        def wait_and_strike() -> None:
            query = (
                "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' "
                "AND datname = current_database()"
            )
            strike(stage, seen(stage.engine, query))

        with in_a_thread(wait_and_strike):
            yield
        if stage.home is not None:
            stage.restart_server()
        stage.execute("DROP FUNCTION IF EXISTS slow CASCADE")

    return fault


def stop_server(stage: Stage, _backend: int) -> None:
    assert stage.home is not None
    stop(stage.home)


def end_backend(stage: Stage, backend: int) -> None:
    """Once: a retried write is not held up."""
    stage.execute(f"SELECT pg_terminate_backend({backend})", "DROP FUNCTION slow CASCADE")


@contextmanager
def restarted_between_pages(stage: Stage) -> Iterator[None]:
    asked: list[None] = []

    def at_the_second() -> None:
        asked.append(None)
        if len(asked) == 2:
            stage.restart_server()

    with stage.world.while_asked(at_the_second):
        yield
    assert len(asked) > 2


@contextmanager
def deadlocked(stage: Stage) -> Iterator[None]:
    """Another session locks the user, which the sync locks last, then wants the sync's calls."""
    name = stage.engine.url.database
    # PostgreSQL aborts the session whose timeout passes first: the sync.
    stage.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '50ms'")
    stage.engine.dispose()
    held = threading.Event()

    def other_session() -> None:
        with stage.engine.connect() as db:
            db.execute(sa.text("SET LOCAL deadlock_timeout = '10min'"))
            db.execute(sa.text("SELECT id FROM users FOR NO KEY UPDATE"))
            held.set()
            seen(stage.engine, "SELECT pid FROM pg_locks WHERE NOT granted")
            db.execute(sa.text("SELECT call_id FROM call_logs FOR UPDATE"))

    with in_a_thread(other_session):
        assert held.wait(120)
        yield


@contextmanager
def full_disk(stage: Stage) -> Iterator[None]:
    """PostgreSQL's own error (53100, "could not extend file"), raised by a trigger: a small
    file system of its own for one table takes root, and not every machine lets its root mount."""
    stage.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER full_disk AFTER INSERT OR UPDATE ON call_logs "
        "FOR EACH STATEMENT EXECUTE FUNCTION full_disk()",
    )
    yield
    stage.execute("DROP FUNCTION full_disk CASCADE")


def seen(engine: sa.Engine, query: str) -> int:
    """The first number that the query finds, once it finds one."""
    deadline = time.monotonic() + 120
    with engine.connect() as db:
        watcher = db.execution_options(isolation_level="AUTOCOMMIT")
        while (found := watcher.execute(sa.text(query)).scalar()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return int(found)


@contextmanager
def in_a_thread(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(120)
    assert not thread.is_alive()
