"""The old application runs beside us and writes to ``api_keys``: it refreshes, deactivates and
reconnects in place, at each point of our own refresh.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState, OAuthToken
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.user_rows import one

HARBOR = UUID(DEMO["Harbor Dental"].id)
LOCATION = DEMO["Harbor Dental"].installs_on


class InterruptedClient(HighLevelClient):
    """A client during whose refresh another application acts, before or after HighLevel does."""

    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def refresh(self, refresh_token: Secret, user_type: str) -> OAuthToken:
        before, self.before = self.before, None
        if before:
            before()
        try:
            return super().refresh(refresh_token, user_type)
        finally:
            after, self.after = self.after, None
            if after:
                after()


class OldApplication:
    """What the source system does: plain tokens, no versions, no leases."""

    def __init__(self, engine: sa.Engine, vault: TokenVault, sandbox: RunningSandbox) -> None:
        self._engine = engine
        self._vault = vault
        self._world = sandbox.world
        # What it had read before we encrypted anything.
        with engine.connect() as db:
            stored = db.execute(sa.text("SELECT refresh_token FROM api_keys")).scalar_one()
        self._refresh_token = vault.decrypt(stored, "refresh_token", HARBOR, 1).reveal()
        self.access_token = ""

    def exchange(self) -> None:
        """Refresh at HighLevel; the answer is not stored yet."""
        pair = self._world.refresh(self._refresh_token)
        self.access_token, self._refresh_token = pair.access_token, pair.refresh_token

    def store(self, *, is_active: bool | None = None) -> None:
        active = "" if is_active is None else f", is_active = {is_active}"
        self._execute(
            f"UPDATE api_keys SET access_token = :access, refresh_token = :refresh{active}, "  # noqa: S608
            "token_expires_at = :expires",
            access=self.access_token,
            refresh=self._refresh_token,
            expires=self._world.clock() + timedelta(days=1),
        )

    def refresh(self) -> None:
        self.exchange()
        self.store()

    def deactivate(self) -> None:
        self._execute("UPDATE api_keys SET is_active = false")

    def reconnect(self) -> None:
        """A new consent, stored in place."""
        user = DEMO["Harbor Dental"]
        code = self._world.authorize(LOCATION, user, ["voice-ai-dashboard.readonly"], "x")
        pair = self._world.exchange(code, "x")
        self.access_token, self._refresh_token = pair.access_token, pair.refresh_token
        self.store(is_active=True)

    def _execute(self, statement: str, **values: object) -> None:
        with self._engine.begin() as db:
            db.execute(sa.text(statement), values)


@pytest.fixture
def client(sandbox: RunningSandbox, clock: Clock) -> Iterator[InterruptedClient]:
    sandbox.world.grace_seconds = 0  # the loser of a race gets a refusal
    with InterruptedClient(
        highlevel_settings(sandbox.url), retry=Retry(attempts=3), sleep=clock.sleep
    ) as client:
        yield client


@pytest.fixture
def old(
    connect: Connector, engine: sa.Engine, vault: TokenVault, sandbox: RunningSandbox, clock: Clock
) -> OldApplication:
    """Beside a connection of ours whose token has expired."""
    connect("Harbor Dental")
    application = OldApplication(engine, vault, sandbox)
    clock.now += timedelta(days=2)
    return application


@pytest.fixture
def tokens(engine: sa.Engine, vault: TokenVault, client: InterruptedClient, clock: Clock) -> Tokens:
    return Tokens(engine, vault, client, now=clock, sleep=clock.sleep)


def events(engine: sa.Engine) -> list[TokenEvent | str]:
    with engine.connect() as db:
        return [entry.event for entry in history.of_user(db, HARBOR)]


def posts(sandbox: RunningSandbox) -> int:
    return sum(request.grant_type == "refresh_token" for request in sandbox.requests)


def test_a_token_that_it_refreshed_is_used_and_no_refresh_is_sent(
    old: OldApplication, tokens: Tokens, engine: sa.Engine, sandbox: RunningSandbox, clock: Clock
) -> None:
    old.refresh()
    assert tokens.get_valid_token(HARBOR) == Secret(old.access_token)
    assert posts(sandbox) == 0
    with engine.connect() as db:
        assert connections.due_for_refresh(db, clock()) == []
    assert events(engine)[0] is TokenEvent.REPLACED
    # The next refresh is ours again, and encrypted.
    clock.now += timedelta(days=1)
    assert tokens.get_valid_token(HARBOR) != Secret(old.access_token)
    assert (posts(sandbox), events(engine)[0]) == (1, TokenEvent.REFRESHED)


def test_a_refresh_token_that_it_left_alone_is_still_ours_to_use(
    old: OldApplication, tokens: Tokens, engine: sa.Engine, clock: Clock
) -> None:
    with engine.begin() as db:
        values = {"expires": clock() + timedelta(hours=1)}
        db.execute(
            sa.text(
                "UPDATE api_keys SET access_token = 'INVENTED-ACCESS', token_expires_at = :expires"
            ),
            values,
        )
    assert tokens.get_valid_token(HARBOR) == Secret("INVENTED-ACCESS")
    clock.now += timedelta(hours=2)
    assert tokens.check(HARBOR).failure is None


def test_it_refreshes_and_stores_while_our_request_is_under_way(
    old: OldApplication,
    tokens: Tokens,
    client: InterruptedClient,
    engine: sa.Engine,
    sandbox: RunningSandbox,
) -> None:
    client.before = old.refresh
    assert tokens.get_valid_token(HARBOR) == Secret(old.access_token)
    assert one(engine, HARBOR).state is ConnectionState.CONNECTED
    assert posts(sandbox) == 1


def test_a_race_that_we_lost_disconnects_no_user_even_if_it_stores_its_pair_late(
    old: OldApplication, tokens: Tokens, client: InterruptedClient, engine: sa.Engine
) -> None:
    client.before = old.exchange
    with pytest.raises(PipelineError) as lost:
        tokens.get_valid_token(HARBOR)
    assert lost.value.failure is FailureClass.REFRESH_REJECTED
    assert one(engine, HARBOR).state is ConnectionState.NEEDS_RECONNECT
    old.store()
    assert one(engine, HARBOR).state is ConnectionState.CONNECTED
    assert tokens.get_valid_token(HARBOR) == Secret(old.access_token)
    with engine.connect() as db:
        row = db.execute(sa.text("SELECT is_active, connection_state FROM api_keys")).one()
        still_open = db.execute(
            sa.text("SELECT count(*) FROM connection_alerts WHERE closed_at IS NULL")
        ).scalar()
    assert tuple(row) == (True, "connected")
    assert still_open == 0


@pytest.mark.parametrize("point", ["before", "during", "after"])
def test_what_it_deactivated_stays_so(
    point: str,
    old: OldApplication,
    tokens: Tokens,
    client: InterruptedClient,
    engine: sa.Engine,
) -> None:
    if point == "before":
        old.deactivate()
        with pytest.raises(PipelineError) as refused:
            tokens.get_valid_token(HARBOR)
        assert refused.value.failure is FailureClass.NO_CONNECTION
    elif point == "during":
        client.after = old.deactivate
        with pytest.raises(PipelineError):
            tokens.get_valid_token(HARBOR)
    else:
        tokens.get_valid_token(HARBOR)
        old.deactivate()
    after = one(engine, HARBOR)
    assert after.state is ConnectionState.DISCONNECTED
    assert not after.can_sync
    with engine.begin() as db:
        assert db.execute(sa.text("SELECT is_active FROM api_keys")).scalar() is False
        db.execute(sa.text("UPDATE api_keys SET is_active = true"))
    # Activated again, with what is stored: a pair that arrived meanwhile was kept.
    assert tokens.check(HARBOR).failure is None


@pytest.mark.parametrize("point", ["before", "during", "after a refusal", "after a disconnection"])
def test_a_reconnection_in_place_is_used(
    point: str,
    old: OldApplication,
    tokens: Tokens,
    client: InterruptedClient,
    consent: Consent,
    engine: sa.Engine,
    sandbox: RunningSandbox,
) -> None:
    if point == "during":
        client.after = old.reconnect
    elif point == "after a refusal":
        sandbox.world.revoke(LOCATION)
        with pytest.raises(PipelineError):
            tokens.get_valid_token(HARBOR)
        old.reconnect()
    elif point == "after a disconnection":
        consent.disconnect(HARBOR)
        old.reconnect()
    else:
        old.reconnect()
    assert tokens.get_valid_token(HARBOR) == Secret(old.access_token)
    assert tokens.check(HARBOR).failure is None
    assert one(engine, HARBOR).state is ConnectionState.CONNECTED


def test_a_pair_that_it_writes_after_a_disconnection_here_connects_no_user(
    old: OldApplication, consent: Consent, engine: sa.Engine
) -> None:
    old.exchange()
    consent.disconnect(HARBOR)
    old.store()
    assert one(engine, HARBOR).state is ConnectionState.DISCONNECTED
