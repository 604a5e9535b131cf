"""The life of a token at the one door: renewed in time, once, and never lost to an error."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections import connection_store, token_row, token_store
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import ChooseLocationError, Consent, ConsentError
from voiceai_pipeline.connections.history import Actor, TokenEvent
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.refresh import LEASE
from voiceai_pipeline.connections.refresh_outcome import PAUSE
from voiceai_pipeline.connections.refresh_plan import needs_refresh
from voiceai_pipeline.connections.tokens import REFRESH_MARGIN, Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    REQUESTED_SCOPES,
    Connection,
    ConnectionState,
    OAuthToken,
)
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.cast import DEMO_LOCATIONS, make_location
from voiceai_pipeline.sandbox.faults import CALL_LOGS, TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.conftest import (
    DEMO,
    NOON,
    Clock,
    Connector,
    counted,
    highlevel_settings,
    open_client,
)
from voiceai_pipeline_tests.support.receivers import Answer, answering

DAY = date(2026, 11, 18)


def refreshes(sandbox: RunningSandbox) -> list[int]:
    return [r.status for r in sandbox.requests if r.grant_type == "refresh_token"]


def reads(sandbox: RunningSandbox) -> list[int]:
    return [r.status for r in sandbox.requests if r.path == CALL_LOGS]


def stored(engine: sa.Engine, user_id: UUID) -> dict[str, Any]:
    """The user's row of ``api_keys`` as it is."""
    with engine.connect() as db:
        query = sa.text("SELECT * FROM api_keys WHERE user_id = :id")
        return dict(db.execute(query, {"id": user_id}).mappings().one())


def standing(engine: sa.Engine, user_id: UUID) -> tuple[ConnectionState, FailureClass | None]:
    with engine.connect() as db:
        found = connections.one(db, user_id)
    assert found is not None
    return found.state, found.reason


def failure_of(request: Callable[[], object]) -> FailureClass:
    with pytest.raises(PipelineError) as caught:
        request()
    return caught.value.failure


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """What a trouble that is not the user's must leave untouched."""
    counted = ("connection_since", "failed_attempts", "last_failure")
    return {name: value for name, value in row.items() if name not in counted}


@pytest.fixture
def harbor(connect: Connector) -> Connection:
    return connect("Harbor Dental")


@pytest.fixture
def expired(harbor: Connection, clock: Clock, sandbox: RunningSandbox) -> Connection:
    """Connected, and two days later the access token is of no use any more."""
    clock.now += timedelta(days=2)
    sandbox.world.clear_requests()
    return harbor


def place_of(connection: Connection) -> str:
    assert connection.location_id is not None
    return connection.location_id


# A token endpoint that does as it is told ---------------------------------------------------------


@dataclass
class Endpoint:
    """Answers POSTs of tokens with what the test has put in ``answer``; whether it is there at all
    (a POST that names no grant) with ``pong``."""

    url: str = ""
    answer: Callable[[], Answer] = lambda: (500, {})
    pong: Callable[[], Answer] = lambda: (400, {"message": "Missing parameter"})
    posts: list[str] = field(default_factory=list)
    pings: int = 0


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    told = Endpoint()

    def answer(sent: str) -> Answer:
        if "grant" in sent:
            told.posts.append(sent)
            return told.answer()
        told.pings += 1
        return told.pong()

    with answering(answer) as url:
        told.url = f"{url}/oauth/token"
        yield told


@contextmanager
def door(
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    token_url: str,
    api_version: str = "dated",
) -> Iterator[Tokens]:
    """Tokens that renew at ``token_url`` and read from the sandbox."""
    settings = replace(highlevel_settings(sandbox.url, api_version), token_url=token_url)
    with HighLevelClient(settings, sleep=clock.sleep, token_timeout=2) as client:
        yield Tokens(engine, vault, client, now=clock)


def granted(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A good answer; a change to None leaves the field out."""
    full = {
        "access_token": f"INVENTED-ACCESS-{number}",
        "refresh_token": f"INVENTED-REFRESH-{number}",
        "token_type": "Bearer",
        "expires_in": 86_399,
        "scope": " ".join(REQUESTED_SCOPES),
        "userType": "Location",
        **changes,
    }
    return {name: value for name, value in full.items() if value is not None}


# When it is renewed -------------------------------------------------------------------------------


@given(st.integers(min_value=-(10**8), max_value=10**8))
def test_a_token_is_renewed_exactly_from_five_minutes_before_its_end(seconds: int) -> None:
    assert needs_refresh(NOON + timedelta(seconds=seconds), NOON) is (seconds <= 300)


def test_a_token_whose_end_is_unknown_is_renewed() -> None:
    assert needs_refresh(None, NOON)


@pytest.mark.parametrize(("seconds", "posts"), [(299, 1), (300, 1), (301, 0)])
def test_the_door_renews_at_five_minutes_and_not_before(
    seconds: int,
    posts: int,
    harbor: Connection,
    tokens: Tokens,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    assert harbor.token_expires_at is not None
    clock.now = harbor.token_expires_at - timedelta(seconds=seconds)
    tokens.get_valid_token(harbor.user.id)
    assert len(refreshes(sandbox)) == posts


def test_a_wider_margin_renews_earlier(
    harbor: Connection, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    assert harbor.token_expires_at is not None
    clock.now = harbor.token_expires_at - timedelta(minutes=20)
    tokens.get_valid_token(harbor.user.id)
    tokens.get_valid_token(harbor.user.id, margin=timedelta(minutes=30))
    assert len(refreshes(sandbox)) == 1


def test_a_fresh_token_is_handed_out_without_a_request(
    harbor: Connection, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.clear_requests()
    assert tokens.get_valid_token(harbor.user.id) == tokens.get_valid_token(harbor.user.id)
    assert sandbox.requests == []


def test_both_dialects_renew(
    both_dialects: str,
    engine: sa.Engine,
    vault: TokenVault,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    with open_client(sandbox.url, clock, both_dialects) as client:
        tokens = Tokens(engine, vault, client, now=clock)
        consent = Consent(engine, vault, client, now=clock)
        connector = Connector(engine, client, consent)
        for name in ("Harbor Dental", "Northwind Agency"):
            user = connector(name).user
            clock.now += timedelta(days=2)
            before = stored(engine, user.id)
            token = tokens.get_valid_token(user.id)
            after = stored(engine, user.id)
            assert sandbox.world.grant_of(access=token.reveal()) is not None
            assert before["refresh_token"] != after["refresh_token"]
            assert after["location_id"] == DEMO[name].location_id
        connector.browser.close()


def test_a_token_that_expired_a_year_ago_is_renewed_and_keeps_its_location(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    clock.now += timedelta(days=364)
    token = tokens.get_valid_token(harbor.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    after = stored(engine, harbor.user.id)
    assert after["location_id"] == harbor.location_id
    assert after["token_expires_at"] == clock.now + timedelta(seconds=86_399)
    assert after["is_active"] is True
    assert standing(engine, harbor.user.id) == (ConnectionState.CONNECTED, None)


def test_who_is_due_is_listed_from_the_planned_moment_on_however_long_ago(
    harbor: Connection, engine: sa.Engine, clock: Clock
) -> None:
    assert harbor.refresh_at is not None
    assert harbor.token_expires_at is not None
    assert timedelta(minutes=30) <= harbor.token_expires_at - harbor.refresh_at
    assert harbor.token_expires_at - harbor.refresh_at <= timedelta(minutes=30, hours=4.8)

    def due() -> list[UUID]:
        with engine.connect() as db:
            return [c.user.id for c in connections.due_for_refresh(db, clock.now)]

    clock.now = harbor.refresh_at - timedelta(seconds=1)
    assert due() == []
    clock.now += timedelta(seconds=1)
    assert due() == [harbor.user.id]
    clock.now += timedelta(days=300)
    assert due() == [harbor.user.id]


def test_an_unknown_user_and_one_who_never_connected_are_told_apart(
    connect: Connector, tokens: Tokens
) -> None:
    (user_id,) = connect.add("Harbor Dental")
    assert failure_of(lambda: tokens.get_valid_token(user_id)) is FailureClass.NO_CONNECTION
    with pytest.raises(UnknownUserError, match="no user"):
        tokens.get_valid_token(uuid4())


# What the answer leaves out (T7) ------------------------------------------------------------------


@pytest.mark.parametrize("api_version", ["dated", "v3"])
def test_what_an_answer_leaves_out_stays_as_it_is_stored(
    api_version: str,
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    before = stored(engine, expired.user.id)
    names = ("accessToken", "expiresIn") if api_version == "v3" else ("access_token", "expires_in")
    endpoint.answer = lambda: (200, dict(zip(names, ("INVENTED-ACCESS", 86_399), strict=True)))
    with door(sandbox, engine, vault, clock, endpoint.url, api_version) as tokens:
        assert tokens.get_valid_token(expired.user.id) == Secret("INVENTED-ACCESS")
    after = stored(engine, expired.user.id)
    for name in ("refresh_token", "location_id", "scope", "company_id", "user_type", "is_active"):
        assert after[name] == before[name]
        assert after[name] is not None
    assert after["token_version"] == before["token_version"] + 1


def test_a_life_shorter_than_the_margin_is_used_once_and_does_not_loop(
    expired: Connection, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.set_token_lifetime(place_of(expired), 60)
    assert tokens.spend(expired.user.id, lambda token: token.reveal())
    assert refreshes(sandbox) == [200]
    tokens.get_valid_token(expired.user.id)
    assert refreshes(sandbox) == [200, 200]


def test_who_waited_for_a_short_lived_token_uses_it_too(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.set_token_lifetime(place_of(expired), 60)
    with engine.begin() as db:
        row = token_row.read(db, expired.user.id, clock.now)
        assert row is not None
        lease = token_store.take_lease(db, row, LEASE)
        assert lease is not None

    def winner_finishes(_: float) -> None:
        held = row.token(vault, "refresh_token")
        assert held is not None
        pair = client.refresh(held, "Location")
        with engine.begin() as db:
            assert token_store.save_rotation(
                db, row, pair, vault, started_at=row.now, refresh_at=row.now, actor=Actor()
            )

    waiting = Tokens(engine, vault, client, now=clock, sleep=winner_finishes)
    token = waiting.get_valid_token(expired.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    assert refreshes(sandbox) == [200]


# Who loses harms nobody (T2) ----------------------------------------------------------------------


def test_a_loser_with_a_stale_row_cannot_take_the_lease(
    expired: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock
) -> None:
    with engine.begin() as db:
        stale = token_row.read(db, expired.user.id, clock.now)
    assert stale is not None
    tokens.get_valid_token(expired.user.id)
    after = stored(engine, expired.user.id)
    with engine.begin() as db:
        assert token_store.take_lease(db, stale, LEASE) is None
        needs, rejected = ConnectionState.NEEDS_RECONNECT, FailureClass.REFRESH_REJECTED
        for lease in (None, uuid4()):
            assert not token_store.settle(
                db,
                stale,
                lease,
                needs,
                rejected,
                actor=Actor(),
                event=TokenEvent.REFRESH_FAILED,
            )
    assert stored(engine, expired.user.id) == after


def test_a_revocation_that_another_found_out_is_not_asked_for_again(
    expired: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    with engine.begin() as db:
        stale = token_row.read(db, expired.user.id, clock.now)
    assert stale is not None
    sandbox.world.revoke(place_of(expired))
    assert (
        failure_of(lambda: tokens.get_valid_token(expired.user.id)) is FailureClass.REFRESH_REJECTED
    )
    with engine.begin() as db:
        assert token_store.take_lease(db, stale, LEASE) is None


@pytest.mark.parametrize(
    "answer",
    [
        (400, {"error": "invalid_grant", "message": "Invalid grant: refresh token is invalid"}),
        (400, {"message": "Location is not active"}),
        (503, {"message": "Service Unavailable"}),
        (200, b"not JSON"),
        (200, granted(99)),
    ],
    ids=["invalid grant", "paused", "503", "malformed", "late success"],
)
def test_the_slow_one_who_lost_its_lease_returns_the_winners_token(
    answer: tuple[int, object],
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    tokens: Tokens,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    won: list[Secret] = []
    rows: list[dict[str, Any]] = []

    def overtaken() -> tuple[int, object]:
        clock.now += LEASE
        won.append(tokens.get_valid_token(expired.user.id))
        rows.append(stored(engine, expired.user.id))
        return answer

    endpoint.answer = overtaken
    with door(sandbox, engine, vault, clock, endpoint.url) as slow:
        assert slow.get_valid_token(expired.user.id) == won[0]
    assert len(endpoint.posts) == 1
    assert stored(engine, expired.user.id) == rows[0]
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)
    assert refreshes(sandbox) == [200]


def test_a_reconnection_beats_an_exchange_in_flight(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    connect: Connector,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    rows: list[dict[str, Any]] = []

    def reconnected() -> tuple[int, object]:
        connect("Harbor Dental")
        rows.append(stored(engine, expired.user.id))
        return 200, granted()

    endpoint.answer = reconnected
    with door(sandbox, engine, vault, clock, endpoint.url) as tokens:
        token = tokens.get_valid_token(expired.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    assert stored(engine, expired.user.id) == rows[0]
    assert len(endpoint.posts) == 1


def test_a_disconnection_beats_an_exchange_in_flight(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    tokens: Tokens,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
    consent: Consent,
) -> None:
    def disconnected() -> tuple[int, object]:
        consent.disconnect(expired.user.id)
        return 200, granted()

    endpoint.answer = disconnected
    with door(sandbox, engine, vault, clock, endpoint.url) as slow:
        failure = failure_of(lambda: slow.get_valid_token(expired.user.id))
    assert failure is FailureClass.NO_CONNECTION
    row = stored(engine, expired.user.id)
    assert (row["access_token"], row["refresh_token"]) == (None, None)
    assert row["connection_state"] == "disconnected"


def test_a_lost_database_connection_after_the_answer_does_not_lose_the_pair(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.grace_seconds = 0
    with engine.begin() as db:
        # A sequence is not rolled back, so the trouble passes after two writes.
        db.execute(sa.text("CREATE SEQUENCE troubles"))
        db.execute(
            sa.text(
                "CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF NEW.token_version > OLD.token_version AND nextval('troubles') <= 2 THEN "
                "PERFORM pg_terminate_backend(pg_backend_pid()); END IF; "
                "RETURN NEW; END $$"
            )
        )
        db.execute(
            sa.text(
                "CREATE TRIGGER trouble BEFORE UPDATE ON api_keys "
                "FOR EACH ROW EXECUTE FUNCTION trouble()"
            )
        )
    token = tokens.get_valid_token(expired.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    assert refreshes(sandbox) == [200]
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)


# 401 and 403 on an API call (T15) -----------------------------------------------------------------


def spend(sandbox: RunningSandbox, tokens: Tokens, client: HighLevelClient, who: Connection) -> int:
    """Read one page of calls; how many there are."""
    start, end = NOON - timedelta(days=1), NOON
    page = tokens.spend(
        who.user.id, lambda token: client.call_logs_page(token, place_of(who), start, end, 1)
    )
    return len(page.items)


@pytest.mark.parametrize("variant", ["invalid_jwt", "documented"])
def test_a_refused_token_is_renewed_once_and_the_request_repeated_once(
    variant: Any,
    harbor: Connection,
    tokens: Tokens,
    client: HighLevelClient,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.add_fault(Fault("unauthorized", place_of(harbor), times=1, variant=variant))
    assert spend(sandbox, tokens, client, harbor) > 0
    assert reads(sandbox) == [401, 200]
    assert refreshes(sandbox) == [200]


def test_a_second_refusal_stops(
    harbor: Connection, tokens: Tokens, client: HighLevelClient, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("unauthorized", place_of(harbor)))
    failure = failure_of(lambda: spend(sandbox, tokens, client, harbor))
    assert failure is FailureClass.ACCESS_REJECTED
    assert reads(sandbox) == [401, 401]
    assert refreshes(sandbox) == [200]


@pytest.mark.parametrize(
    ("fault", "failure", "answers"),
    [
        (Fault("unauthorized", variant="scope"), FailureClass.SCOPE_MISSING, [401]),
        (Fault("unauthorized", variant="authclass"), FailureClass.SCOPE_MISSING, [401]),
        (Fault("forbidden_location"), FailureClass.WRONG_LOCATION, [403]),
        (Fault("unauthorized", variant="version"), FailureClass.OUR_REQUEST, [401]),
        (Fault("gateway_timeout_401"), FailureClass.PROVIDER_ERROR, [401] * 3),
    ],
    ids=lambda value: value.variant if isinstance(value, Fault) else None,
)
def test_a_refusal_that_no_renewal_mends_spends_no_refresh_token(
    fault: Fault,
    failure: FailureClass,
    answers: list[int],
    harbor: Connection,
    tokens: Tokens,
    client: HighLevelClient,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.add_fault(fault)
    assert failure_of(lambda: spend(sandbox, tokens, client, harbor)) is failure
    assert reads(sandbox) == answers
    assert refreshes(sandbox) == []


def test_a_token_refused_because_another_renewed_it_is_replaced_without_a_request(
    harbor: Connection, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    old = tokens.get_valid_token(harbor.user.id)
    clock.now += timedelta(days=2)
    new = tokens.get_valid_token(harbor.user.id)
    assert tokens.get_valid_token(harbor.user.id, rejected=old) == new
    assert refreshes(sandbox) == [200]


def test_a_token_that_is_refused_right_after_its_renewal_is_not_renewed_again(
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    endpoint.answer = lambda: (200, granted())
    same = Secret("INVENTED-ACCESS-1")
    with door(sandbox, engine, vault, clock, endpoint.url) as tokens:
        assert tokens.get_valid_token(expired.user.id, rejected=same) == same
    assert len(endpoint.posts) == 1


def test_a_token_that_expires_on_its_way_is_an_error_and_costs_one_post(
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    def slowly() -> tuple[int, object]:
        clock.now += timedelta(seconds=2)
        return 200, granted(expires_in=1)

    endpoint.answer = slowly
    with (
        door(sandbox, engine, vault, clock, endpoint.url) as tokens,
        pytest.raises(PipelineError, match="renewed, and expired already"),
    ):
        tokens.get_valid_token(expired.user.id)
    assert len(endpoint.posts) == 1


MINT = "/oauth/locationToken"


def test_an_agency_that_may_not_mint_spends_one_refresh_token(
    connect: Connector, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    sandbox.world.add_fault(Fault("unauthorized", path=MINT))
    with pytest.raises(PipelineError, match="renewed, and refused all the same"):
        tokens.get_valid_token(agency.user.id)
    assert refreshes(sandbox) == [200]


def test_a_mint_that_is_refused_for_good_is_a_state_that_people_see(
    connect: Connector, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    sandbox.world.add_fault(Fault("forbidden_location", path=MINT))
    assert tokens.check(agency.user.id).failure is not None
    assert standing(engine, agency.user.id) == (
        ConnectionState.NEEDS_RECONNECT,
        FailureClass.WRONG_LOCATION,
    )


def test_a_paused_agency_resumes_by_itself(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    tokens.report(agency.user.id, FailureClass.LOCATION_PAUSED)
    clock.now += PAUSE
    assert tokens.refresh_due([agency.user.id]) == {agency.user.id: None}
    assert standing(engine, agency.user.id) == (ConnectionState.CONNECTED, None)


def test_a_token_minted_for_the_location_before_is_not_kept_for_the_one_chosen_since(
    connect: Connector, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    agency = connect("Northwind Agency")
    with engine.begin() as db:
        before = token_row.read(db, agency.user.id, clock.now)
        assert before is not None
        assert connection_store.choose_location(db, before, "LocOther", actor=Actor())
        minted = OAuthToken(Secret("INVENTED-OLD-PLACE"), 3600)
        assert not token_store.save_location_token(db, before, minted, vault, actor=Actor())


def test_a_renewal_that_was_asked_for_early_and_lost_is_repeated_when_somebody_looks(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    stall = Fault("stall", place_of(harbor), path=TOKEN_PATH, seconds=30, times=1)
    sandbox.world.add_fault(stall)
    assert failure_of(lambda: tokens.refresh(harbor.user.id)) is FailureClass.IN_DOUBT
    with engine.connect() as db:
        assert [c.user.id for c in connections.due_for_refresh(db, clock.now)] == [harbor.user.id]
    assert tokens.refresh_due([harbor.user.id]) == {harbor.user.id: None}
    assert standing(engine, harbor.user.id) == (ConnectionState.CONNECTED, None)


# The answer is lost -------------------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_once_more_and_the_grace_gives_it(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("lost_token_response", place_of(expired), times=1))
    token = tokens.get_valid_token(expired.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    assert refreshes(sandbox) == [0, 200]
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)
    row = stored(engine, expired.user.id)
    assert (row["lease_id"], row["refresh_replayed"], row["is_active"]) == (None, False, True)


def test_without_grace_a_lost_answer_takes_a_person_after_two_posts(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.grace_seconds = 0
    sandbox.world.add_fault(Fault("lost_token_response", place_of(expired), times=1))
    for _ in range(3):
        failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
        assert failure is FailureClass.REFRESH_REJECTED
    assert refreshes(sandbox) == [0, 400]
    assert standing(engine, expired.user.id) == (
        ConnectionState.NEEDS_RECONNECT,
        FailureClass.REFRESH_REJECTED,
    )


def test_two_lost_answers_take_a_person_and_never_a_third_post(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    before = stored(engine, expired.user.id)
    sandbox.world.add_fault(Fault("lost_token_response", place_of(expired)))
    with pytest.raises(PipelineError, match="answer was lost twice"):
        tokens.get_valid_token(expired.user.id)
    assert (
        failure_of(lambda: tokens.get_valid_token(expired.user.id)) is FailureClass.REFRESH_REJECTED
    )
    assert refreshes(sandbox) == [0, 0]
    after = stored(engine, expired.user.id)
    assert after["refresh_token"] == before["refresh_token"]
    assert after["is_active"] is False


def test_a_timeout_is_not_replayed_at_once_but_at_the_next_attempt(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    stall = Fault("stall", place_of(expired), path=TOKEN_PATH, seconds=30, times=1)
    sandbox.world.add_fault(stall)
    failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
    assert failure is FailureClass.IN_DOUBT
    assert len(refreshes(sandbox)) == 1
    assert standing(engine, expired.user.id) == (
        ConnectionState.IN_DOUBT,
        FailureClass.IN_DOUBT,
    )
    tokens.get_valid_token(expired.user.id)
    assert len(refreshes(sandbox)) == 2
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)


def test_a_503_between_does_not_make_a_lost_answer_younger(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    answers = iter([(200, b"not JSON"), (503, {}), (200, b"not JSON"), (200, granted())])
    endpoint.answer = lambda: next(answers)
    with door(sandbox, engine, vault, clock, endpoint.url) as tokens:
        assert (
            failure_of(lambda: tokens.get_valid_token(expired.user.id))
            is FailureClass.PROVIDER_ERROR
        )
        assert stored(engine, expired.user.id)["is_active"] is True
        assert standing(engine, expired.user.id)[0] is ConnectionState.IN_DOUBT
        with pytest.raises(PipelineError, match="repeated at 13:00 UTC"):
            tokens.get_valid_token(expired.user.id)
        clock.now += timedelta(hours=1)
        with pytest.raises(PipelineError, match="lost twice"):
            tokens.get_valid_token(expired.user.id)
    assert len(endpoint.posts) == 3


def test_the_one_replay_is_kept_for_when_highlevel_answers_again(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    answers = iter([(200, b"not JSON"), (200, granted())])
    endpoint.answer = lambda: next(answers)
    endpoint.pong = lambda: (503, {})
    with door(sandbox, engine, vault, clock, endpoint.url) as tokens:
        for _ in range(4 * 24):  # four days, once an hour
            failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
            assert failure in (FailureClass.IN_DOUBT, FailureClass.PROVIDER_ERROR)
            clock.now += timedelta(hours=1)
        assert len(endpoint.posts) == 1
        assert standing(engine, expired.user.id)[0] is ConnectionState.IN_DOUBT
        endpoint.pong = lambda: (400, {"message": "Missing parameter: grantType"})
        assert tokens.get_valid_token(expired.user.id) == Secret("INVENTED-ACCESS-1")
    assert len(endpoint.posts) == 2


# Troubles that are not the user's -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (Fault("bad_client"), FailureClass.CLIENT_REFUSED),
        (Fault("server_error", path=TOKEN_PATH, status=503), FailureClass.PROVIDER_ERROR),
        (Fault("html_502", path=TOKEN_PATH), FailureClass.PROVIDER_ERROR),
        (Fault("rate_limit", path=TOKEN_PATH), FailureClass.RATE_LIMITED),
        (Fault("gateway_timeout_401", path=TOKEN_PATH), None),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else None,
)
def test_a_trouble_of_ours_or_theirs_leaves_the_user_untouched(
    fault: Fault,
    failure: FailureClass | None,
    expired: Connection,
    engine: sa.Engine,
    tokens: Tokens,
    sandbox: RunningSandbox,
) -> None:
    before = stored(engine, expired.user.id)
    sandbox.world.add_fault(fault)
    got = failure_of(lambda: tokens.get_valid_token(expired.user.id))
    assert failure in (None, got)
    assert not got.needs_action
    assert kept(stored(engine, expired.user.id)) == kept(before)
    assert len(refreshes(sandbox)) == 1
    sandbox.world.clear_faults()
    tokens.get_valid_token(expired.user.id)


def test_an_endpoint_that_cannot_be_reached_leaves_the_user_untouched(
    expired: Connection, engine: sa.Engine, vault: TokenVault, clock: Clock, sandbox: RunningSandbox
) -> None:
    before = stored(engine, expired.user.id)
    with door(sandbox, engine, vault, clock, "http://127.0.0.1:9/oauth/token") as tokens:
        failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
    assert failure is FailureClass.UNREACHABLE
    assert kept(stored(engine, expired.user.id)) == kept(before)


def test_a_paused_location_keeps_its_tokens_and_resumes_by_itself(
    expired: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    before = stored(engine, expired.user.id)
    sandbox.world.pause(place_of(expired))
    assert (
        failure_of(lambda: tokens.get_valid_token(expired.user.id)) is FailureClass.LOCATION_PAUSED
    )
    row = stored(engine, expired.user.id)
    assert row["refresh_token"] == before["refresh_token"]
    assert row["next_attempt_at"] == clock.now + PAUSE
    assert row["is_active"] is True
    clock.now += PAUSE - timedelta(seconds=1)
    assert (
        failure_of(lambda: tokens.get_valid_token(expired.user.id)) is FailureClass.LOCATION_PAUSED
    )
    assert len(refreshes(sandbox)) == 1
    clock.now += timedelta(seconds=1)
    assert (
        failure_of(lambda: tokens.get_valid_token(expired.user.id)) is FailureClass.LOCATION_PAUSED
    )
    assert stored(engine, expired.user.id)["next_attempt_at"] == clock.now + PAUSE
    since = stored(engine, expired.user.id)["connection_since"]
    assert since == row["connection_since"]
    sandbox.world.resume(place_of(expired))
    clock.now += PAUSE
    tokens.get_valid_token(expired.user.id)
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)
    assert stored(engine, expired.user.id)["next_attempt_at"] is None


def test_a_forced_attempt_ends_a_pause_early(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.pause(place_of(expired))
    failure_of(lambda: tokens.get_valid_token(expired.user.id))
    sandbox.world.resume(place_of(expired))
    tokens.get_valid_token(expired.user.id, force=True)
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)


def test_a_token_that_cannot_be_decrypted_spends_nothing(
    expired: Connection,
    engine: sa.Engine,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    before = stored(engine, expired.user.id)
    stranger = Tokens(engine, TokenVault({"other": b"o" * 32}), client, now=clock)
    assert (
        failure_of(lambda: stranger.get_valid_token(expired.user.id))
        is FailureClass.TOKEN_UNREADABLE
    )
    assert stored(engine, expired.user.id) == before
    assert sandbox.requests == []


# Agencies -----------------------------------------------------------------------------------------


def test_an_agency_never_reads_calls_with_its_own_token(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    assert agency.user_type == "Company"
    assert agency.location_id == DEMO["Northwind Agency"].location_id
    sandbox.world.clear_requests()
    first = tokens.get_valid_token(agency.user.id)
    grant = sandbox.world.grant_of(access=first.reveal())
    assert grant is not None
    assert (grant.user_type, grant.location_id) == ("Location", agency.location_id)
    assert tokens.get_valid_token(agency.user.id) == first
    assert [r.path for r in sandbox.requests] == ["/oauth/locationToken"]
    clock.now += timedelta(days=1)
    second = tokens.get_valid_token(agency.user.id)
    assert second != first
    assert [r.path for r in sandbox.requests] == [
        "/oauth/locationToken",
        "/oauth/token",
        "/oauth/locationToken",
    ]
    third = tokens.get_valid_token(agency.user.id, rejected=second)
    assert third not in (first, second)
    assert len(refreshes(sandbox)) == 1


def test_a_short_lived_minted_token_is_minted_again_without_a_refresh(
    connect: Connector, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    sandbox.world.set_token_lifetime(place_of(agency), 60)
    sandbox.world.clear_requests()
    assert tokens.get_valid_token(agency.user.id) != tokens.get_valid_token(agency.user.id)
    assert [r.path for r in sandbox.requests] == ["/oauth/locationToken"] * 2


def test_an_agency_that_removed_the_app_needs_a_person(
    connect: Connector, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    agency = connect("Northwind Agency")
    sandbox.world.revoke(agency.company_id or "")
    assert (
        failure_of(lambda: tokens.get_valid_token(agency.user.id)) is FailureClass.REFRESH_REJECTED
    )
    assert standing(engine, agency.user.id)[0] is ConnectionState.NEEDS_RECONNECT


@pytest.fixture
def agency_of_two(clock: Clock) -> Iterator[RunningSandbox]:
    agency = DEMO["Northwind Agency"]
    vans = make_location("Northwind Vans", 12, "motors", "Europe/Berlin", 5)
    locations = (*DEMO_LOCATIONS, replace(vans, company_id=agency.company_id))
    with running(World(clock=clock, locations=locations), limits=False) as sandbox:
        yield sandbox


def test_an_agency_with_two_locations_has_to_choose_and_its_grant_is_kept(
    agency_of_two: RunningSandbox, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    agency = DEMO["Northwind Agency"]
    with open_client(agency_of_two.url, clock) as client:
        tokens = Tokens(engine, vault, client, now=clock)
        consent = Consent(engine, vault, client, now=clock)
        connector = Connector(engine, client, consent)
        (user_id,) = connector.add("Northwind Agency")
        with pytest.raises(ChooseLocationError, match="Northwind Vans") as choice:
            consent.connect(user_id, connector.code(agency))
        assert len(choice.value.locations) == 2
        row = stored(engine, user_id)
        assert vault.decrypt(row["refresh_token"], "refresh_token", user_id)
        assert standing(engine, user_id) == (
            ConnectionState.NEEDS_RECONNECT,
            FailureClass.NO_LOCATION,
        )
        with pytest.raises(ChooseLocationError):
            consent.connect(user_id, connector.code(agency), "LocNowhere")
        chosen = choice.value.locations[1]
        connected = consent.connect(user_id, connector.code(agency), chosen.location_id)
        connector.browser.close()
        assert connected.state is ConnectionState.CONNECTED
        assert connected.location_id == chosen.location_id
        token = tokens.get_valid_token(user_id)
        grant = agency_of_two.world.grant_of(access=token.reveal())
        assert grant is not None
        assert grant.location_id == chosen.location_id


# Scopes -------------------------------------------------------------------------------------------


def test_a_connection_without_the_scope_waits_and_costs_no_request(
    connect: Connector, engine: sa.Engine, sync: Sync, sandbox: RunningSandbox
) -> None:
    cedar = connect("Cedar Vets")
    assert cedar.state is ConnectionState.NEEDS_RECONNECT
    assert cedar.reason is FailureClass.SCOPE_MISSING
    assert "voice-ai-dashboard.readonly" in cedar.message
    sandbox.world.clear_requests()
    (day,) = sync.sync_days([DAY])
    assert (day.state, day.failure) == (DayState.WAITING, FailureClass.SCOPE_MISSING)
    assert sandbox.requests == []


def test_a_scope_lost_at_a_refresh_needs_a_person(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    endpoint.answer = lambda: (200, granted(scope="locations.readonly"))
    with door(sandbox, engine, vault, clock, endpoint.url) as tokens:
        for _ in range(2):
            failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
            assert failure is FailureClass.SCOPE_MISSING
    assert len(endpoint.posts) == 1
    row = stored(engine, expired.user.id)
    refresh = vault.decrypt(row["refresh_token"], "refresh_token", expired.user.id)
    assert refresh == Secret("INVENTED-REFRESH-1")  # the new pair is kept all the same


# What the API says about a connection -------------------------------------------------------------


def test_only_the_token_endpoint_can_revoke(
    harbor: Connection, engine: sa.Engine, tokens: Tokens
) -> None:
    tokens.report(harbor.user.id, FailureClass.REFRESH_REJECTED)
    assert standing(engine, harbor.user.id) == (ConnectionState.CONNECTED, None)


def test_a_report_about_somebody_who_has_disconnected_changes_nothing(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, consent: Consent
) -> None:
    consent.disconnect(harbor.user.id)
    before = stored(engine, harbor.user.id)
    for failure in FailureClass:
        tokens.report(harbor.user.id, failure)
    assert stored(engine, harbor.user.id) == before


def test_a_refusal_of_a_token_that_was_replaced_meanwhile_is_not_held_against_the_new_one(
    connect: Connector, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    harbor = connect("Harbor Dental")
    client = connect.client
    sandbox.world.add_fault(
        Fault("unauthorized", place_of(harbor), path=CALL_LOGS, variant="scope")
    )

    def refused_while_reconnecting(token: Secret) -> object:
        connect("Harbor Dental")
        return client.call_logs_page(
            token, place_of(harbor), NOON - timedelta(days=1), NOON, page=1
        )

    with pytest.raises(PipelineError):
        tokens.spend(harbor.user.id, refused_while_reconnecting)
    assert standing(engine, harbor.user.id) == (ConnectionState.CONNECTED, None)


@pytest.mark.parametrize(
    ("fault", "state", "reason"),
    [
        (
            Fault("unauthorized", variant="scope"),
            ConnectionState.NEEDS_RECONNECT,
            FailureClass.SCOPE_MISSING,
        ),
        (
            Fault("forbidden_location"),
            ConnectionState.NEEDS_RECONNECT,
            FailureClass.WRONG_LOCATION,
        ),
        (Fault("server_error"), ConnectionState.CONNECTED, None),
    ],
    ids=["scope", "location", "503"],
)
def test_a_check_tells_what_the_api_says_and_notes_it(
    fault: Fault,
    state: ConnectionState,
    reason: FailureClass | None,
    harbor: Connection,
    engine: sa.Engine,
    tokens: Tokens,
    sandbox: RunningSandbox,
) -> None:
    assert tokens.check(harbor.user.id).failure is None
    sandbox.world.add_fault(fault)
    checked = tokens.check(harbor.user.id)
    assert checked.failure is not None
    assert (checked.connection.state, checked.connection.reason) == (state, reason)


def test_a_check_reads_the_day_before_now_by_the_same_clock(
    harbor: Connection, tokens: Tokens, sandbox: RunningSandbox, clock: Clock
) -> None:
    sandbox.world.clear_requests()
    tokens.check(harbor.user.id)
    (request,) = sandbox.requests
    end = datetime.fromtimestamp(int(request.query["endDate"]) / 1000, UTC)
    assert end == clock.now


def test_a_check_of_a_location_that_pays_again_ends_its_pause(
    expired: Connection, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.pause(place_of(expired))
    paused = tokens.check(expired.user.id)
    assert paused.connection.state is ConnectionState.PAUSED
    sandbox.world.resume(place_of(expired))
    assert tokens.check(expired.user.id).connection.state is ConnectionState.CONNECTED


# Connecting and disconnecting ---------------------------------------------------------------------


def test_connecting_stores_everything_encrypted_and_names_the_location(
    harbor: Connection, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    row = stored(engine, harbor.user.id)
    for column in ("access_token", "refresh_token"):
        assert row[column].startswith("enc:v1:test:")
        assert "SANDBOX" in vault.decrypt(row[column], column, harbor.user.id).reveal()
    assert row["name"] == "HighLevel"
    assert row["location_name"] == "Harbor Dental"
    assert row["location_timezone"] == "America/New_York"
    assert row["token_expires_at"] == clock.now + timedelta(seconds=86_399)


def test_a_refused_code_leaves_the_stored_connection_untouched(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, consent: Consent
) -> None:
    before = stored(engine, harbor.user.id)
    with pytest.raises(ConsentError):
        consent.connect(harbor.user.id, Secret("SANDBOX-CODE.invented"))
    assert stored(engine, harbor.user.id) == before


def test_a_code_is_not_spent_on_a_stranger(
    connect: Connector, tokens: Tokens, sandbox: RunningSandbox, consent: Consent
) -> None:
    connect.add("Harbor Dental")
    code = connect.code(DEMO["Harbor Dental"])
    with pytest.raises(UnknownUserError):
        consent.connect(uuid4(), code)
    assert [r for r in sandbox.requests if r.grant_type] == []
    assert consent.connect(UUID(DEMO["Harbor Dental"].id), code).can_sync


def test_reconnecting_after_a_revocation_replaces_the_row(
    expired: Connection,
    engine: sa.Engine,
    tokens: Tokens,
    connect: Connector,
    sandbox: RunningSandbox,
) -> None:
    sandbox.world.revoke(place_of(expired))
    failure_of(lambda: tokens.get_valid_token(expired.user.id))
    before = stored(engine, expired.user.id)
    connect("Harbor Dental")
    after = stored(engine, expired.user.id)
    assert after["id"] == before["id"]
    assert after["token_version"] > before["token_version"]
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)


def test_reconnecting_keeps_the_location_known_when_its_name_cannot_be_read(
    harbor: Connection, connect: Connector, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("server_error", place_of(harbor), path="/locations/"))
    again = connect("Harbor Dental")
    assert again.location_timezone == "America/New_York"
    assert again.location_name == "Harbor Dental"


def test_disconnecting_destroys_the_tokens_and_keeps_the_user_listed(
    connect: Connector, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox, consent: Consent
) -> None:
    agency = connect("Northwind Agency")
    tokens.get_valid_token(agency.user.id)  # a location token is cached
    after = consent.disconnect(agency.user.id)
    assert after.state is ConnectionState.DISCONNECTED
    row = stored(engine, agency.user.id)
    assert [row[c] for c in ("access_token", "refresh_token", "location_access_token")] == [
        None
    ] * 3
    assert row["is_active"] is False
    assert "enc:" not in str(row)
    with engine.connect() as db:
        assert [c.user.id for c in connections.all_connections(db)] == [agency.user.id]
    assert "Fix:" in after.message
    sandbox.world.clear_requests()
    assert failure_of(lambda: tokens.get_valid_token(agency.user.id)) is FailureClass.NO_CONNECTION
    assert sandbox.requests == []
    with pytest.raises(UnknownUserError):
        consent.disconnect(uuid4())


def test_a_sync_in_flight_stops_before_its_next_request_after_a_disconnection(
    harbor: Connection,
    engine: sa.Engine,
    tokens: Tokens,
    sync: Sync,
    sandbox: RunningSandbox,
    consent: Consent,
) -> None:
    sandbox.world.clear_requests()
    sandbox.world.add_fault(Fault("latency", place_of(harbor), seconds=0.3))
    days = [DAY - timedelta(days=n) for n in range(10)]
    with ThreadPoolExecutor(1) as pool:
        running_sync = pool.submit(sync.sync_days, days)
        deadline = time.monotonic() + 10
        while not reads(sandbox):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        consent.disconnect(harbor.user.id)
        asked = len(reads(sandbox))
        results = running_sync.result()
    assert len(reads(sandbox)) <= asked + 1
    assert {(r.state, r.failure) for r in results} == {
        (DayState.WAITING, FailureClass.NO_CONNECTION)
    }
    with engine.connect() as db:
        assert db.execute(sa.text("SELECT count(*) FROM call_logs")).scalar_one() == 0


def test_a_spender_knows_a_token_until_something_happens_to_it(
    harbor: Connection,
    engine: sa.Engine,
    tokens: Tokens,
    consent: Consent,
    sandbox: RunningSandbox,
    clock: Clock,
) -> None:
    spend = tokens.spender(harbor.user.id)
    with counted(engine) as statements:
        first = spend(lambda token: token)
        before = len(statements)
        assert [spend(lambda token: token) for _ in range(3)] == [first] * 3
    assert len(statements) - before == 3, "one statement each"
    tokens.refresh(harbor.user.id)
    second = spend(lambda token: token)
    assert second != first
    clock.now += timedelta(hours=23, minutes=56)  # expired, but for the margin
    third = spend(lambda token: token)
    assert third != second
    with engine.begin() as db:  # as the source system reconnects: by another row
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, service, access_token, token_expires_at, "
                "location_id, is_active, updated_at) VALUES (gen_random_uuid(), :user, 'highlevel',"
                " 'INVENTED-ELSEWHERE', :end, :place, true, :end)"
            ),
            {
                "user": harbor.user.id,
                "place": harbor.location_id,
                "end": clock.now + timedelta(days=1),
            },
        )
    assert spend(lambda token: token) == Secret("INVENTED-ELSEWHERE")
    consent.disconnect(harbor.user.id)
    asked: list[Secret] = []
    assert failure_of(lambda: spend(asked.append)) is FailureClass.NO_CONNECTION
    assert asked == []


def test_reconnecting_elsewhere_moves_the_days_that_waited_or_failed(
    connect: Connector,
    engine: sa.Engine,
    sync: Sync,
    tokens: Tokens,
    sandbox: RunningSandbox,
    consent: Consent,
) -> None:
    (user_id,) = connect.add("Harbor Dental")
    sync.sync_days([DAY])  # never connected: waits at no location
    connect("Harbor Dental")
    next_day = DAY + timedelta(days=1)
    sandbox.world.add_fault(Fault("server_error", day=next_day))
    sync.sync_days([next_day])
    sync.sync_days([DAY - timedelta(days=1)])  # complete at the first location
    sandbox.world.clear_faults()
    consent.connect(user_id, connect.code(DEMO["Sunrise Clinic"]))
    with engine.connect() as db:
        rows = ledger.results(db, days=[DAY + timedelta(days=n) for n in (-1, 0, 1)])
    here, there = DEMO["Harbor Dental"].location_id, DEMO["Sunrise Clinic"].location_id
    assert [(row.location_id, row.state) for row in rows] == [
        (here, DayState.COMPLETE),
        (there, DayState.WAITING),
        (there, DayState.WAITING),
    ]
    reports = sync.report([DAY, next_day])
    assert [len(report.unread) for report in reports] == [1, 1]
    assert not any(report.is_green for report in reports)


def test_every_row_of_a_user_is_out_of_use_after_a_reconnection_but_the_new_one(
    connect: Connector, engine: sa.Engine
) -> None:
    (user_id,) = connect.add("Harbor Dental")
    with engine.begin() as db:
        for _ in range(2):
            db.execute(
                sa.text(
                    "INSERT INTO api_keys (user_id, service, access_token, refresh_token, "
                    "location_id, is_active) VALUES (:id, 'highlevel', 'a', 'r', 'LocOld', true)"
                ),
                {"id": user_id},
            )
    connect("Harbor Dental")
    with engine.connect() as db:
        active = db.execute(
            sa.text("SELECT location_id FROM api_keys WHERE is_active AND user_id = :id"),
            {"id": user_id},
        )
        assert active.scalars().all() == [DEMO["Harbor Dental"].location_id]


def test_the_sync_of_another_zone_uses_the_same_door(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, client: HighLevelClient, clock: Clock
) -> None:
    clock.now += timedelta(days=2)
    auckland = Sync(engine, tokens, client, ZoneInfo("Pacific/Auckland"), now=clock)
    (day,) = auckland.sync_days([DAY])
    assert day.state is DayState.COMPLETE


def test_the_lease_outlasts_every_timeout_of_a_token_post() -> None:
    client = HighLevelClient(highlevel_settings("http://127.0.0.1:9"), retry=Retry(attempts=1))
    assert client._token_timeout + 5 < LEASE.total_seconds()
    assert timedelta(minutes=5) == REFRESH_MARGIN
    client.close()
