"""Fleets and faults: outages, a wrong secret, a herd, a database that is away, skewed clocks.

Time is simulated; the token endpoint, where it has to misbehave for a whole fleet, is a server of a
few lines that does as it is told. What a single connection lives through is ``test_tokens.py``.
"""

import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import (
    alerts,
    circuit_breaker,
    connection_store,
    history,
    token_row,
)
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.refresh_plan import planned_refresh
from voiceai_pipeline.connections.spool import Generation, Spool
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    REQUESTED_SCOPES,
    Connection,
    ConnectionState,
    OAuthToken,
)
from voiceai_pipeline.core.failures import (
    OUR_FAILURES,
    PROVIDER_FAILURES,
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres, stop
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import RULES, Endpoint, meaning
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.conftest import NOON, Clock, Connector, highlevel_settings
from voiceai_pipeline_tests.support.receivers import Answer, answering

CALLBACK = "http://127.0.0.1:9"
TICK = timedelta(minutes=10)


@dataclass
class Provider:
    """A token endpoint for a fleet: rotates whatever it is given, or fails as ``trouble`` says.

    Attributes:
        trouble: the status and body instead of a grant; None: it works. A status of 0 drops the
            connection after the request, -1 never answers.
        half: what grants nothing is answered all the same.
        only: whose refresh token has the trouble; None: everybody's.
        spent: how often each refresh token was presented.
        pings: requests that named no grant.
    """

    url: str = ""
    trouble: tuple[int, dict[str, Any]] | None = None
    half: bool = False
    only: str | None = None
    spent: Counter[str] = field(default_factory=Counter)
    pings: int = 0
    granted: int = 0

    @property
    def posts(self) -> int:
        return self.spent.total()

    def answer(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        if "grant_type" in form:
            self.spent[form["refresh_token"][0]] += 1
        else:
            self.pings += 1
        is_ping = "grant_type" not in form
        spared = (self.half and is_ping) or (
            self.only is not None and (is_ping or self.only not in form["refresh_token"])
        )
        if self.trouble is not None and not spared:
            return self.trouble
        if is_ping:
            return 400, {"message": "Missing parameter: grantType"}
        self.granted += 1
        return 200, {
            "access_token": f"INVENTED-ACCESS-{self.granted}",
            "refresh_token": f"INVENTED-REFRESH-{self.granted}",
            "expires_in": 86_399,
            "scope": " ".join(REQUESTED_SCOPES),
            "userType": "Location",
            "traceId": f"trace-{self.granted:08d}",
        }


@pytest.fixture
def provider() -> Iterator[Provider]:
    told = Provider()
    lock = threading.Lock()
    ended = threading.Event()

    def answer(sent: str) -> Answer | None:
        with lock:
            status, body = told.answer(parse_qs(sent))
        if status == -1:
            ended.wait(5)
        return (status, body) if status > 0 else None

    with answering(answer) as url:
        told.url = f"{url}/oauth/token"
        yield told
        ended.set()


@contextmanager
def renewing(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, timeout: float = 2
) -> Iterator[Tokens]:
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings, sleep=clock.sleep, token_timeout=timeout) as client:
        yield Tokens(engine, vault, client, now=clock, sleep=clock.sleep)


def fleet(
    engine: sa.Engine, size: int, now: datetime, *, expires: timedelta, refreshed: timedelta
) -> list[UUID]:
    """Connected users with tokens in plain text, as the source system stored them, so that a
    thousand of them cost no encryption."""
    ids = [UUID(int=0x4000_8000_0000_0000_0000 + number) for number in range(size)]
    with engine.begin() as db:
        db.execute(
            sa.text("INSERT INTO users (id, business_name) SELECT unnest(:ids), 'Shop'"),
            {"ids": ids},
        )
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, name, service, access_token, refresh_token, "
                "token_expires_at, location_id, user_type, is_active, connection_state, "
                "connection_since, updated_at, refreshed_at) SELECT gen_random_uuid(), id, "
                "'HighLevel', 'highlevel', 'INVENTED-A-' || id, 'INVENTED-R-' || id, :expires, "
                "'Loc' || id, 'Location', true, 'connected', :refreshed, :refreshed, :refreshed "
                "FROM unnest(:ids) AS id"
            ),
            {"ids": ids, "expires": now + expires, "refreshed": now + refreshed},
        )
    return ids


def states(engine: sa.Engine) -> Counter[str]:
    with engine.connect() as db:
        return Counter(db.execute(sa.text("SELECT connection_state FROM api_keys")).scalars())


def due(engine: sa.Engine, clock: Clock) -> list[UUID]:
    with engine.connect() as db:
        return [c.user.id for c in connections.due_for_refresh(db, clock.now)]


def told(engine: sa.Engine, channel: str = "test") -> list[tuple[str, str]]:
    """What there is to tell, told: whom it concerns, and whether it began or ended."""
    with engine.begin() as db:
        notices = alerts.pending(db, channel)
        for notice in notices:
            alerts.mark_delivered(db, notice, channel)
    return [(n.user.name if n.user else "app", n.moment) for n in notices]


def app_events(engine: sa.Engine) -> list[str]:
    with engine.connect() as db:
        query = "SELECT event FROM token_events WHERE user_id IS NULL ORDER BY id"
        return list(db.execute(sa.text(query)).scalars())


# A wrong client secret (T9) -----------------------------------------------------------------------


def test_a_wrong_client_secret_for_an_hour_marks_nobody_and_is_told_once(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    users = fleet(engine, 1000, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    with engine.connect() as db:
        columns = "connection_state, connection_reason, failed_attempts, token_version, is_active"
        query = sa.text(f"SELECT {columns}, refresh_token FROM api_keys ORDER BY user_id")  # noqa: S608
        before = db.execute(query).all()
    provider.trouble = (401, {"message": "client secret is not valid", "error": "Unauthorized"})
    told_so_far = []
    with renewing(engine, vault, clock, provider) as tokens:
        end = clock.now + timedelta(hours=1)
        while clock.now < end:
            outcomes = tokens.refresh_due(users)
            assert {o.failure for o in outcomes.values() if o} == {FailureClass.CLIENT_REFUSED}
            assert len([o for o in outcomes.values() if o]) == 1000
            told_so_far += told(engine)
            clock.now += 3 * TICK
        # Five open it, eight workers may be on their way; then a probe in five minutes.
        assert provider.posts <= 5 + 8 + 60 / 5
        with engine.connect() as db:
            assert db.execute(query).all() == before
        assert told_so_far == [("app", "opened")]
        with engine.begin() as db:
            assert circuit_breaker.read(db).is_open
        assert app_events(engine) == ["circuit_opened"]

        provider.trouble = None
        clock.now += timedelta(minutes=5)
        outcomes = tokens.refresh_due(users)
        late = [user for user, outcome in outcomes.items() if outcome]
        # Those who asked while the first success was still under way are told to wait.
        assert len(late) <= 100
        assert not any(tokens.refresh_due(late).values())
    assert told(engine) == [("app", "closed")]
    assert app_events(engine) == ["circuit_opened", "circuit_closed"]
    with engine.begin() as db:
        assert not circuit_breaker.read(db).is_open
    assert max(provider.spent.values()) <= 2 + 60 / 5


# An outage of the provider's (T10) ----------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [(503, {"message": "Service Unavailable"}), (504, {}), (429, {}), (0, {}), (-1, {})],
    ids=["503", "504", "429", "reset", "timeout"],
)
def test_an_outage_of_four_days_costs_nobody_the_connection(
    trouble: tuple[int, dict[str, Any]],
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    provider: Provider,
) -> None:
    users = fleet(engine, 12, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider.trouble = trouble
    timeout = 0.05 if trouble[0] == -1 else 2
    notices = []
    with renewing(engine, vault, clock, provider, timeout) as tokens:
        end = clock.now + timedelta(days=4)
        while clock.now < end:
            outcomes = tokens.refresh_due(users)
            assert all(o and not o.failure.needs_action for o in outcomes.values())
            notices += told(engine)
            clock.now += timedelta(hours=1)
        assert set(states(engine)) <= {"connected", "in_doubt"}
        # Nobody is asked for again and again: the circuit lets one probe through at a time.
        assert provider.posts <= 5 + 8
        assert notices == [("app", "opened")]
    provider.trouble = None
    with renewing(engine, vault, clock, provider) as tokens:
        outcomes = {u: o for u, o in tokens.refresh_due(users).items() if o}
        clock.now += timedelta(minutes=1)
        assert not any(tokens.refresh_due(list(outcomes)).values())
    assert states(engine) == {"connected": 12}
    assert due(engine, clock) == []
    assert max(provider.spent.values()) <= 2 or trouble[0] > 0
    assert told(engine) == [("app", "closed")]


def test_half_an_outage_in_which_only_grants_are_lost_spends_one_replay_a_day_at_most(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    users = fleet(engine, 30, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider.trouble, provider.half = (-1, {}), True
    with renewing(engine, vault, clock, provider, timeout=0.05) as tokens:
        end = clock.now + timedelta(days=4)
        while clock.now < end:
            tokens.refresh_due(users)
            clock.now += timedelta(hours=1)
    lost = states(engine)["needs_reconnect"]
    assert lost <= 4
    provider.trouble = None
    with renewing(engine, vault, clock, provider) as tokens:
        clock.now += timedelta(hours=24)
        for _ in range(3):
            tokens.refresh_due(users)
            clock.now += timedelta(minutes=1)
    assert states(engine) == Counter(connected=30 - lost, needs_reconnect=lost)
    assert max(provider.spent.values()) <= 2


def test_one_user_whose_renewal_fails_for_two_hours_is_told_of_once_and_not_revoked(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    well, odd = fleet(engine, 2, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    notices = []
    with renewing(engine, vault, clock, provider) as tokens:
        for _ in range(30):
            provider.trouble = (418, {"message": "I'm a teapot"})
            error = tokens.refresh_due([odd])[odd]
            assert error is not None
            assert error.failure is FailureClass.UNKNOWN_ANSWER
            provider.trouble = None
            assert tokens.refresh(well).can_sync
            notices += told(engine)
            clock.now += TICK
        with engine.begin() as db:
            seen = connections.one(db, odd, clock.now)
        assert seen is not None
        assert (seen.status, seen.failed_attempts) == (ConnectionState.EXPIRING, 30)
        assert "failed 30 times in a row" in seen.cause
        assert "not documented" in seen.cause
        assert notices == [("Shop", "opened")]
        assert tokens.refresh(odd).last_failure is None
    assert told(engine) == [("Shop", "closed")]


def test_who_keeps_failing_and_then_turns_out_revoked_is_told_of_again(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    with renewing(engine, vault, clock, provider) as tokens:
        provider.trouble = (418, {"message": "I'm a teapot"})
        for _ in range(12):
            assert tokens.refresh_due([user])[user]
        assert told(engine) == [("Shop", "opened")]
        provider.trouble = (400, {"message": "Invalid grant: refresh token is invalid"})
        assert tokens.refresh_due([user])[user]
        assert told(engine) == [("Shop", "opened")]
        assert told(engine) == []


def test_a_key_that_is_gone_is_told_once_and_changes_nothing(
    engine: sa.Engine, connect: Connector, client: HighLevelClient, clock: Clock, vault: TokenVault
) -> None:
    user = connect("Harbor Dental")
    stranger = Tokens(engine, TokenVault({"other": b"o" * 32}), client, now=clock)
    for days in (0, 2):
        clock.now += timedelta(days=days)
        for _ in range(10):
            with pytest.raises(PipelineError) as refused:
                stranger.get_valid_token(user.user.id)
            assert refused.value.failure is FailureClass.TOKEN_UNREADABLE
    assert told(engine) == [("Harbor Dental", "opened")]
    assert states(engine) == {"connected": 1}
    with engine.begin() as db:
        entries = history.of_user(db, user.user.id)
    assert [e.event for e in entries] == [TokenEvent.REFRESH_FAILED, TokenEvent.CONNECTED]
    assert "no key 'test' in the keyring" in entries[0].sentence
    assert Tokens(engine, vault, client, now=clock).refresh(user.user.id).can_sync
    assert told(engine) == [("Harbor Dental", "closed")]


def test_a_notice_names_a_business_and_never_a_person(engine: sa.Engine, clock: Clock) -> None:
    with engine.begin() as db:
        person = UUID(int=7)
        connections.add_user(db, person, business_name="", first_name="Ada", last_name="Byron")
        alerts.open_(db, person, FailureClass.REFRESH_REJECTED, clock.now)
    assert told(engine) == [(str(person), "opened")]


def test_one_users_lasting_trouble_suspends_nobody_else(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    odd, *_ = users = fleet(engine, 5, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider.trouble, provider.only = (500, {}), f"INVENTED-R-{odd}"
    notices = []
    with renewing(engine, vault, clock, provider) as tokens:
        for _ in range(20):
            outcomes = tokens.refresh_due(users)
            assert [user for user, outcome in outcomes.items() if outcome] == [odd]
            notices += told(engine)
            clock.now += TICK
    with engine.begin() as db:
        assert not circuit_breaker.read(db).is_open
    assert notices == [("Shop", "opened")]


def test_a_replay_that_is_answered_with_errors_is_told_and_asked_for_once_an_hour(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    notices, end = [], clock.now + timedelta(days=2)
    with renewing(engine, vault, clock, provider) as tokens:
        provider.trouble, provider.half = (0, {}), False
        assert tokens.refresh_due([user])[user]
        provider.trouble, provider.half = (500, {}), True
        while clock.now < end:
            if due(engine, clock):
                assert tokens.refresh_due([user])[user]
            notices += told(engine)
            clock.now += TICK
        assert states(engine) == {"in_doubt": 1}
        assert provider.posts <= 1 + 48 + 1
        assert ("Shop", "opened") in notices
        provider.trouble = None
        clock.now += timedelta(hours=1)
        assert tokens.refresh_due([user]) == {user: None}


def test_a_refusal_of_one_user_does_not_let_replays_begin_again(
    engine: sa.Engine, clock: Clock
) -> None:
    with engine.begin() as db:
        circuit_breaker.count_failure(db, FailureClass.UNREACHABLE, "", clock.now, None)
        circuit_breaker.rest_replays(db, clock.now + timedelta(days=1))
        circuit_breaker.count_success(db, granted=False)
        assert circuit_breaker.read(db).replays_rest_until is not None
        circuit_breaker.count_success(db, granted=True)
        assert circuit_breaker.read(db).replays_rest_until is None


def test_a_consent_proves_our_client_and_ends_what_everybody_suffered_from(
    engine: sa.Engine, connect: Connector, clock: Clock
) -> None:
    with engine.begin() as db:
        for _ in range(circuit_breaker.THRESHOLD):
            circuit_breaker.count_failure(db, FailureClass.CLIENT_REFUSED, "", clock.now, None)
        alerts.open_(db, None, FailureClass.CLIENT_REFUSED, clock.now)
        assert circuit_breaker.read(db).is_open
    assert told(engine) == [("app", "opened")]
    connect("Harbor Dental")
    with engine.begin() as db:
        assert not circuit_breaker.read(db).is_open
    assert told(engine) == [("app", "closed")]


# A herd (T11) -------------------------------------------------------------------------------------


def test_five_thousand_tokens_of_one_minute_drift_apart_and_none_expires(
    engine: sa.Engine, clock: Clock
) -> None:
    life = timedelta(hours=24)
    users = fleet(engine, 5000, clock.now, expires=life, refreshed=timedelta())
    plan = sa.text(
        "UPDATE api_keys SET refresh_at = p.at, token_expires_at = p.ends "
        "FROM unnest(CAST(:ids AS uuid[]), CAST(:at AS timestamptz[]), "
        "CAST(:ends AS timestamptz[])) AS p(id, at, ends) WHERE api_keys.user_id = p.id"
    )

    def grant(user_ids: list[UUID]) -> None:
        at = [planned_refresh(user_id, clock.now, life) for user_id in user_ids]
        with engine.begin() as db:
            db.execute(plan, {"ids": user_ids, "at": at, "ends": [clock.now + life] * len(at)})

    grant(users)
    start = clock.now
    per_tick: list[tuple[datetime, int]] = []
    ends = dict.fromkeys(users, start + life)
    tick = 3 * TICK
    while clock.now < start + timedelta(days=7):
        clock.now += tick
        now_due = due(engine, clock)
        assert all(clock.now < ends[user_id] for user_id in now_due), "expired before it was due"
        ends |= dict.fromkeys(now_due, clock.now + life)
        grant(now_due)
        per_tick.append((clock.now, len(now_due)))
    assert min(ends.values()) > clock.now
    # At five a second, a batch is done well before the next tick.
    assert max(count for _, count in per_tick) / 5 < tick.total_seconds()
    third_day = [n for at, n in per_tick if timedelta(days=2) < at - start < timedelta(days=3)]
    assert sum(1 for n in third_day if n) * tick >= 0.1 * life


def test_the_jitter_is_a_users_own_and_stays_the_same() -> None:
    life = timedelta(hours=24)
    users = [UUID(int=n) for n in range(1000)]
    ahead = [NOON + life - planned_refresh(user, NOON, life) for user in users]
    assert ahead == [NOON + life - planned_refresh(user, NOON, life) for user in users]
    assert min(ahead) >= timedelta(minutes=30)
    assert max(ahead) <= timedelta(minutes=30) + 0.2 * life
    quarters = statistics.quantiles([a.total_seconds() for a in ahead], n=4)
    assert quarters == pytest.approx([1800 + 0.2 * 86400 * q / 4 for q in (1, 2, 3)], rel=0.1)
    short = timedelta(minutes=10)
    assert NOON + 0.6 * short < planned_refresh(users[0], NOON, short) <= NOON + 0.9 * short


def test_a_batch_is_renewed_at_a_steady_pace(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider
) -> None:
    users = fleet(engine, 60, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    before = clock.now
    with renewing(engine, vault, clock, provider) as tokens:
        assert not any(tokens.refresh_due(users).values())
    assert provider.posts == 60
    assert (clock.now - before).total_seconds() >= (60 - 8) / 5


# A database that is away (T5) ---------------------------------------------------------------------


@dataclass
class Away:
    """A pipeline whose PostgreSQL stops right after the next exchange was answered."""

    home: Path
    engine: sa.Engine
    tokens: Tokens
    spool: Spool
    user: Connection
    waits: list[float]
    sandbox: RunningSandbox

    def refreshes(self) -> int:
        return sum(r.grant_type == "refresh_token" for r in self.sandbox.requests)

    def stored_works(self) -> bool:
        token = self.tokens.get_valid_token(self.user.user.id)
        return self.sandbox.world.grant_of(access=token.reveal()) is not None


class _Stopping(HighLevelClient):
    stopping: Callable[[], None] | None = None

    def refresh(self, refresh_token: Secret, user_type: str) -> OAuthToken:
        token = super().refresh(refresh_token, user_type)
        if self.stopping:
            self.stopping()
            self.stopping = None
        return token


@pytest.fixture
def away(
    tmp_path: Path, sandbox: RunningSandbox, vault: TokenVault, clock: Clock
) -> Iterator[Away]:
    sandbox.world.grace_seconds = 0  # a pair that is lost is lost
    with EmbeddedPostgres.hold(tmp_path, durable=False) as server:
        server.create_database("voiceai")
        engine = open_engine(Secret(server.url("voiceai")))
        migrate.upgrade(engine)
        waits: list[float] = []
        spool = Spool(tmp_path / "spool", vault)
        with _Stopping(highlevel_settings(sandbox.url)) as client:
            connector = Connector(engine, client, Consent(engine, vault, client, now=clock))
            user = connector("Harbor Dental")
            connector.browser.close()
            tokens = Tokens(engine, vault, client, spool=spool, now=clock, sleep=waits.append)
            client.stopping = lambda: stop(tmp_path)
            clock.now += timedelta(days=2)
            sandbox.world.clear_requests()
            yield Away(tmp_path, engine, tokens, spool, user, waits, sandbox)
        engine.dispose()


def test_a_pair_outlives_a_database_that_is_away_and_the_process_that_got_it(away: Away) -> None:
    with pytest.raises(PipelineError) as failure:
        away.tokens.get_valid_token(away.user.user.id)
    assert failure.value.failure is FailureClass.DATABASE
    assert sum(away.waits) < 60
    assert len(list(away.spool.waiting())) == 1
    (file,) = (away.home / "spool").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (away.home / "spool").stat().st_mode & 0o777 == 0o700
    assert "SANDBOX-" not in file.read_text()
    with EmbeddedPostgres.hold(away.home, durable=False):
        assert away.stored_works()  # what another process would do
        assert away.refreshes() == 1
        assert list(away.spool.waiting()) == []
        with away.engine.begin() as db:
            events = [e.event for e in history.of_user(db, away.user.user.id)]
            after = connections.one(db, away.user.user.id)
        assert events[0] is TokenEvent.RESTORED
        assert after is not None
        assert after.state is ConnectionState.CONNECTED


def test_a_database_that_is_back_in_time_gets_the_pair_at_once(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders = []

    def back_after_three_waits(seconds: float) -> None:
        away.waits.append(seconds)
        if len(away.waits) == 3:
            holders.append(EmbeddedPostgres.hold(away.home, durable=False))

    monkeypatch.setattr(away.tokens._refresher, "_sleep", back_after_three_waits)
    assert away.stored_works()
    assert away.refreshes() == 1
    assert list(away.spool.waiting()) == []
    for holder in holders:
        holder.release()


def test_where_the_disk_refuses_the_pair_too_it_is_held_in_memory_and_said_so(
    away: Away, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (away.home / "spool").write_text("not a folder")
    holders = []

    def back_after_five_minutes(seconds: float) -> None:
        away.waits.append(seconds)
        if sum(away.waits) > 300 and not holders:
            holders.append(EmbeddedPostgres.hold(away.home, durable=False))

    monkeypatch.setattr(away.tokens._refresher, "_sleep", back_after_five_minutes)
    assert away.stored_works()
    assert away.refreshes() == 1
    assert "Do not stop this process" in caplog.text
    assert "SANDBOX-" not in caplog.text
    for holder in holders:
        holder.release()


def test_a_pair_is_restored_for_who_was_given_up_meanwhile(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, tmp_path: Path
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    spool = Spool(tmp_path / "spool", vault)
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings) as client:
        tokens = Tokens(engine, vault, client, spool=spool, now=clock)
        with engine.begin() as db:
            row = token_row.read(db, user, clock.now)
        assert row is not None
        pair = OAuthToken(Secret("INVENTED-NEW"), 3600, refresh_token=Secret("INVENTED-NEXT"))
        spool.put(Generation(user, row.id, row.version), pair, clock.now)
        provider.trouble = (400, {"message": "Invalid grant: refresh token is invalid"})
        elsewhere = Tokens(engine, vault, client, now=clock)
        with pytest.raises(PipelineError):
            elsewhere.get_valid_token(user)
        assert states(engine) == {"needs_reconnect": 1}
        assert told(engine) == [("Shop", "opened")]
        assert tokens.refresh_due([]) == {}
        assert states(engine) == {"connected": 1}
        assert told(engine) == [("Shop", "closed")]
        assert tokens.get_valid_token(user) == Secret("INVENTED-NEW")


@pytest.mark.parametrize(
    "error",
    [
        sa.exc.TimeoutError("the pool is exhausted"),
        sa.exc.InternalError("UPDATE", {}, Exception("read-only transaction")),
    ],
    ids=["no connection left", "read-only"],
)
def test_whatever_keeps_the_database_from_taking_a_pair_costs_no_pair(
    error: sa.exc.SQLAlchemyError,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    provider: Provider,
    tmp_path: Path,
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    spool = Spool(tmp_path / "spool", vault)
    refused: list[int] = []

    def refuse_twice(_: sa.Connection, *statement: object) -> None:
        if "SET access_token" in str(statement) and len(refused) < 2:
            refused.append(len(list(spool.waiting())))
            raise error

    sa.event.listen(engine, "before_cursor_execute", refuse_twice)
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings) as client:
        tokens = Tokens(engine, vault, client, spool=spool, now=clock, sleep=clock.sleep)
        assert tokens.get_valid_token(user) == Secret("INVENTED-ACCESS-1")
    assert refused == [0, 1]  # at the second attempt it waits on disk already
    assert list(spool.waiting()) == []
    assert provider.posts == 1


def test_a_pair_on_disk_that_cannot_be_read_keeps_nobody_else_from_being_renewed(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, tmp_path: Path
) -> None:
    odd, well = fleet(engine, 2, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    with engine.begin() as db:
        row = token_row.read(db, odd, clock.now)
    assert row is not None
    pair = OAuthToken(Secret("INVENTED"), 3600, refresh_token=Secret("INVENTED"))
    strange = Spool(tmp_path / "spool", TokenVault({"gone": b"g" * 32}))
    strange.put(Generation(odd, row.id, row.version), pair, clock.now)
    (tmp_path / "spool" / "notes.json").write_text("no pair of ours")
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings) as client:
        spool = Spool(tmp_path / "spool", vault)
        tokens = Tokens(engine, vault, client, spool=spool, now=clock)
        outcomes = tokens.refresh_due([odd, well])
    assert outcomes[well] is None
    assert outcomes[odd] is not None
    assert outcomes[odd].failure is FailureClass.TOKEN_UNREADABLE
    assert told(engine) == [("Shop", "opened")]
    assert len(list(spool.waiting())) == 1  # for when the key is back


def test_a_disconnection_destroys_what_waits_on_disk_too(
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "spool", vault)
    consent = Consent(engine, vault, client, spool=spool, now=clock)
    connector = Connector(engine, client, consent)
    user = connector("Harbor Dental").user.id
    connector.browser.close()
    pair = OAuthToken(Secret("INVENTED"), 3600, refresh_token=Secret("INVENTED"))
    spool.put(Generation(user, UUID(int=1), 7), pair, clock.now)
    (tmp_path / "spool" / f".{user}.half").write_text("half a draft")
    other = Generation(UUID(int=2), UUID(int=3), 1)
    spool.put(other, pair, clock.now)
    consent.disconnect(user)
    assert list(spool.waiting()) == [other]
    assert len(list((tmp_path / "spool").iterdir())) == 1


@pytest.mark.parametrize("change", ["disconnect", "newer"])
def test_a_pair_that_was_overtaken_is_thrown_away(
    change: str,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    provider: Provider,
    tmp_path: Path,
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    spool = Spool(tmp_path / "spool", vault)
    settings = replace(highlevel_settings(CALLBACK), token_url=provider.url)
    with HighLevelClient(settings) as client:
        with engine.begin() as db:
            row = token_row.read(db, user, clock.now)
        assert row is not None
        if change == "newer":
            Tokens(engine, vault, client, now=clock).get_valid_token(user)
        else:
            with engine.begin() as db:
                connection_store.disconnect(db, user, clock.now, actor=history.Actor())
        pair = OAuthToken(Secret("INVENTED-OLD"), 3600, refresh_token=Secret("INVENTED-OLDER"))
        spool.put(Generation(user, row.id, row.version), pair, clock.now)
        tokens = Tokens(engine, vault, client, spool=spool, now=clock)
        assert tokens.refresh_due([]) == {}
    assert list(spool.waiting()) == []
    with engine.begin() as db:
        after = token_row.read(db, user, clock.now)
    assert after is not None
    assert after.token(vault, "access_token") != Secret("INVENTED-OLD")


# Clocks (T12) and idle users (T14) ----------------------------------------------------------------


@pytest.mark.parametrize("skew", [-600, 600], ids=["behind", "ahead"])
def test_a_provider_whose_clock_is_wrong_changes_no_expiry(
    skew: int, connect: Connector, engine: sa.Engine, clock: Clock, sandbox: RunningSandbox
) -> None:
    sandbox.world.clock = lambda: clock() + timedelta(seconds=skew)
    after = connect("Harbor Dental")
    assert after.token_expires_at == clock.now + timedelta(seconds=86_399)


@pytest.mark.parametrize("skew", [-600, 600], ids=["behind", "ahead"])
def test_by_a_skewed_clock_no_expired_token_is_used_and_none_is_renewed_early(
    skew: int, connect: Connector, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    sandbox.world.clock = lambda: clock() + timedelta(seconds=skew)
    user = connect("Harbor Dental")
    assert user.token_expires_at is not None
    sandbox.world.clear_requests()
    clock.now = user.token_expires_at - timedelta(minutes=5, seconds=1)
    assert tokens.check(user.user.id).failure is None
    assert [r.path for r in sandbox.requests] == ["/voice-ai/dashboard/call-logs"]
    clock.now += timedelta(seconds=1)
    assert tokens.check(user.user.id).failure is None
    assert [r.status for r in sandbox.requests] == [200, 200, 200]


def test_a_token_unused_for_eleven_months_is_kept_alive(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    user = connect("Harbor Dental").user.id
    clock.now += timedelta(days=330)
    assert due(engine, clock) == [user]
    assert tokens.refresh_due([user]) == {user: None}
    with engine.begin() as db:
        after = connections.one(db, user, clock.now)
    assert after is not None
    assert after.refresh_token_ends_at == clock.now + timedelta(days=365)
    clock.now += timedelta(days=330)
    assert tokens.refresh_due([user]) == {user: None}


def test_a_long_pause_is_told_of_once_thirty_days_before_it_costs_the_refresh_token(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    user = connect("Harbor Dental")
    sandbox.world.pause(user.location_id or "")
    start, notices = clock.now, []
    while clock.now < start + timedelta(days=360):
        clock.now += timedelta(days=5)
        error = tokens.refresh_due([user.user.id])[user.user.id]
        assert error is not None
        assert error.failure is FailureClass.LOCATION_PAUSED
        notices += [(clock.now - start, *notice) for notice in told(engine)]
    assert notices == [(timedelta(days=335), "Harbor Dental", "opened")]
    sandbox.world.resume(user.location_id or "")
    clock.now += timedelta(hours=6)
    assert tokens.refresh_due([user.user.id]) == {user.user.id: None}
    assert told(engine) == [("Harbor Dental", "closed")]


# What the token endpoint's answers mean (T8) ------------------------------------------------------

S, F = ConnectionState, FailureClass
MEANINGS = [
    # status, message, class, state afterwards, who is told
    (400, "Location is not active", F.LOCATION_PAUSED, S.PAUSED, []),
    (401, "Command timed out", F.PROVIDER_ERROR, S.CONNECTED, []),
    (401, "version header was not found.", F.OUR_REQUEST, S.CONNECTED, []),
    (400, "refreshToken is not available in API version v3", F.CONTRACT_DRIFT, S.CONNECTED, []),
    (410, "This API endpoint has been removed", F.CONTRACT_DRIFT, S.CONNECTED, []),
    (400, "Invalid parameter: grantType", F.CLIENT_REFUSED, S.CONNECTED, []),
    (400, "Missing parameter: clientId", F.CLIENT_REFUSED, S.CONNECTED, []),
    (401, "unauthorized_client", F.CLIENT_REFUSED, S.CONNECTED, []),
    (
        400,
        "Invalid grant: refresh token is invalid",
        F.REFRESH_REJECTED,
        S.NEEDS_RECONNECT,
        [("Shop", "opened")],
    ),
    (400, "The client was not found", F.CLIENT_REFUSED, S.CONNECTED, []),
    (401, "refresh token was revoked", F.REFRESH_REJECTED, S.NEEDS_RECONNECT, [("Shop", "opened")]),
    (401, "no", F.CLIENT_REFUSED, S.CONNECTED, []),
    (403, "error code: 1010", F.OUR_REQUEST, S.CONNECTED, []),
    (404, "Not Found", F.CONTRACT_DRIFT, S.CONNECTED, []),
    (422, "property limit should not exist", F.OUR_REQUEST, S.CONNECTED, []),
    (429, "Too many requests", F.RATE_LIMITED, S.CONNECTED, []),
    (408, "Request timeout", F.UNREACHABLE, S.CONNECTED, []),
    (500, "", F.PROVIDER_ERROR, S.CONNECTED, []),
    (503, "Invalid grant: refresh token is invalid", F.PROVIDER_ERROR, S.CONNECTED, []),
    (418, "I'm a teapot", F.UNKNOWN_ANSWER, S.CONNECTED, []),
]


@pytest.mark.parametrize(("status", "message", "failure", "state", "notices"), MEANINGS)
def test_an_answer_of_the_token_endpoint_means_one_thing_and_keeps_the_tokens(
    status: int,
    message: str,
    failure: FailureClass,
    state: ConnectionState,
    notices: list[tuple[str, str]],
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    provider: Provider,
) -> None:
    (user,) = fleet(engine, 1, clock.now, expires=-TICK, refreshed=-timedelta(days=1))
    provider.trouble = (status, {"message": message, "traceId": "trace-00000001"})
    with renewing(engine, vault, clock, provider) as tokens:
        with pytest.raises(PipelineError) as refused:
            tokens.get_valid_token(user)
        assert refused.value.failure is failure
        with engine.begin() as db:
            after = token_row.read(db, user, clock.now)
            entry = history.of_user(db, user)[0]
        assert after is not None
        assert after.connection.state is state
        assert after.token(vault, "refresh_token") == Secret(f"INVENTED-R-{user}")
        assert after.lease_id is None
        wait = timedelta(hours=6) if state is S.PAUSED else None
        assert after.connection.next_attempt_at == (clock.now + wait if wait else None)
        assert (entry.event, entry.reason) == (TokenEvent.REFRESH_FAILED, failure)
        assert entry.trace_id == "trace-00000001"
        assert told(engine) == notices
        for _ in range(100):
            with pytest.raises(PipelineError):
                tokens.get_valid_token(user)
        # What is theirs and does not pass is told after two hours; what is ours, at once, for all.
        lasting = failure in PROVIDER_FAILURES | {F.UNKNOWN_ANSWER}
        ours = failure in OUR_FAILURES
        assert told(engine) == [("Shop", "opened")] * lasting + [("app", "opened")] * ours


def test_every_rule_for_the_token_endpoint_has_a_row_above() -> None:
    used = set()
    for status, message, *_ in MEANINGS:
        for number, rule in enumerate(RULES):
            fits = rule.endpoint is Endpoint.TOKEN and status in rule.statuses
            if fits and meaning(Endpoint.TOKEN, status, message) is rule.failure:
                used.add(number)
    unused = [r for n, r in enumerate(RULES) if r.endpoint is Endpoint.TOKEN and n not in used]
    assert unused == []


# The history (T17) --------------------------------------------------------------------------------


def test_the_history_can_only_be_added_to(connect: Connector, engine: sa.Engine) -> None:
    connect("Harbor Dental")
    for change in (
        "UPDATE token_events SET detail = 'nothing happened'",
        "DELETE FROM token_events",
        "TRUNCATE token_events",
    ):
        with pytest.raises(sa.exc.DBAPIError, match="can only be added to"), engine.begin() as db:
            db.execute(sa.text(change))


def test_the_history_tells_who_did_what_in_which_generation_and_holds_no_token(
    connect: Connector,
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    user = connect("Harbor Dental")
    run = Tokens(engine, vault, client, actor=history.Actor("dagster", "run-1"), now=clock)
    clock.now += timedelta(days=2)
    run.get_valid_token(user.user.id)
    sandbox.world.revoke(user.location_id or "")
    assert run.check(user.user.id).failure is not None
    with engine.begin() as db:
        entries = history.of_user(db, user.user.id)
        dump = str(db.execute(sa.text("SELECT * FROM token_events")).all())
    assert [(e.event, e.actor, e.run_id) for e in entries] == [
        (TokenEvent.TESTED, "dagster", "run-1"),
        (TokenEvent.REFRESH_FAILED, "dagster", "run-1"),
        (TokenEvent.REFRESHED, "dagster", "run-1"),
        (TokenEvent.CONNECTED, "pipeline", None),
    ]
    refreshed = entries[2]
    assert (refreshed.version_before, refreshed.version_after) == (1, 2)
    assert refreshed.trace_id
    assert "SANDBOX-" not in dump
    prints = {e["fingerprint"] for e in _rows(engine) if e["fingerprint"]}
    assert len(prints) == 2


def _rows(engine: sa.Engine) -> list[dict[str, Any]]:
    with engine.connect() as db:
        return [dict(r) for r in db.execute(sa.text("SELECT * FROM token_events")).mappings()]


def test_a_fingerprint_is_keyed(vault: TokenVault) -> None:
    token, stranger = Secret("INVENTED"), TokenVault({"other": b"o" * 32})
    assert vault.fingerprint(token) == vault.fingerprint(token)
    assert vault.fingerprint(token) != stranger.fingerprint(token)


def test_a_pair_on_disk_is_found_again_by_its_generation_only(
    tmp_path: Path, vault: TokenVault
) -> None:
    spool = Spool(tmp_path / "spool", vault)
    pair = OAuthToken(Secret("INVENTED"), 60, refresh_token=Secret("INVENTED"))
    spool.put(Generation(UUID(int=1), UUID(int=2), 3), pair, NOON)
    found = spool.get(Generation(UUID(int=1), UUID(int=2), 3))
    assert found is not None
    assert (found.token, found.started_at) == (pair, NOON)
    assert spool.get(Generation(UUID(int=1), UUID(int=2), 4)) is None
