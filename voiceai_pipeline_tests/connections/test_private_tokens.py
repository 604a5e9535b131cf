"""Private integration tokens: entered, tested with one request, never refreshed, and each way in
which they stop working.
"""

from datetime import date, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections import alerts, history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.private_tokens import PrivateTokenError, PrivateTokens
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.days import DayState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.sandbox.faults import CALL_LOGS
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.user_rows import one

HARBOR = UUID(DEMO["Harbor Dental"].id)
LOCATION = DEMO["Harbor Dental"].installs_on
ELSEWHERE = DEMO["Pine Realty"].installs_on
AGENTS_ONLY = ("voice-ai-agents.readonly",)


@pytest.fixture
def private(
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    connect: Connector,
) -> PrivateTokens:
    connect.add("Harbor Dental")
    return PrivateTokens(engine, vault, client, now=clock)


def token_of(sandbox: RunningSandbox, location_id: str = LOCATION) -> Secret:
    return Secret(sandbox.world.private_tokens.of(location_id))


def asked(sandbox: RunningSandbox, path: str) -> int:
    return sum(request.path == path for request in sandbox.requests)


def test_a_token_and_a_location_id_are_enough_for_the_calls_to_arrive(
    private: PrivateTokens, sandbox: RunningSandbox, engine: sa.Engine, sync: Sync, clock: Clock
) -> None:
    after = private.connect(HARBOR, token_of(sandbox), LOCATION)

    assert after.label == "connected"
    assert "does not expire" in after.cause
    assert (after.location_name, after.location_timezone) == ("Harbor Dental", "America/New_York")
    assert asked(sandbox, CALL_LOGS) == 1
    (result,) = sync.sync_days([date(2026, 11, 18)])
    assert result.state is DayState.COMPLETE
    assert result.stored
    with engine.connect() as db:
        row = db.execute(sa.text("SELECT access_token, refresh_token FROM api_keys")).one()
        events = [entry.sentence for entry in history.of_user(db, HARBOR)]
    assert row.access_token.startswith("enc:v2:")
    assert row.refresh_token is None
    assert events == ["Connected with a private integration token"]
    assert asked(sandbox, "/oauth/token") == 0


@pytest.mark.parametrize(
    ("token", "location_id"),
    [
        (" {token}\r\n", LOCATION),
        ("{token}", f"https://app.example.test/v2/location/{LOCATION}/dashboard"),
    ],
    ids=["with the line end of a paste", "with an address of the location"],
)
def test_what_was_pasted_around_token_and_location_does_not_matter(
    token: str, location_id: str, private: PrivateTokens, sandbox: RunningSandbox
) -> None:
    pasted = Secret(token.format(token=token_of(sandbox).reveal()))
    assert private.connect(HARBOR, pasted, location_id).location_id == LOCATION


@pytest.mark.parametrize(
    ("token", "location_id", "said"),
    [
        ("", LOCATION, "not a private integration token"),
        ("pit-with a space 0123456789", LOCATION, "not a private integration token"),
        ("pit-über-0123456789-0123456789", LOCATION, "not a private integration token"),
        ("{token}", "", "not a location id"),
        ("{token}", "my location", "not a location id"),
    ],
)
def test_what_cannot_be_a_token_or_a_location_is_refused_before_any_request(
    token: str,
    location_id: str,
    said: str,
    private: PrivateTokens,
    sandbox: RunningSandbox,
    engine: sa.Engine,
) -> None:
    entered = Secret(token.format(token=token_of(sandbox).reveal()))
    with pytest.raises(PrivateTokenError, match=said) as refused:
        private.connect(HARBOR, entered, location_id)
    assert "Nothing was changed" in str(refused.value)
    assert sandbox.requests == []
    assert one(engine, HARBOR).state is ConnectionState.NEVER_CONNECTED


REFUSALS = [
    (FailureClass.PRIVATE_TOKEN_REVOKED, "private token revoked", "rotated"),
    (FailureClass.PRIVATE_TOKEN_SCOPE, "private token lacks a scope", "unticked"),
    (FailureClass.PRIVATE_TOKEN_LOCATION, "private token of another location", "elsewhere"),
]


def break_it(how: str, sandbox: RunningSandbox, engine: sa.Engine) -> None:
    if how == "rotated":
        sandbox.world.private_tokens.rotate(LOCATION)
    elif how == "unticked":
        sandbox.world.private_tokens.tick(LOCATION, AGENTS_ONLY)
    else:
        with engine.begin() as db:
            db.execute(sa.text("UPDATE api_keys SET location_id = :id"), {"id": ELSEWHERE})


@pytest.mark.parametrize(("failure", "label", "how"), REFUSALS)
def test_a_token_that_stops_working_has_its_own_state_and_fix_and_spends_no_refresh(
    failure: FailureClass,
    label: str,
    how: str,
    private: PrivateTokens,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    sync: Sync,
    tokens: Tokens,
) -> None:
    private.connect(HARBOR, token_of(sandbox), LOCATION)
    break_it(how, sandbox, engine)

    (result,) = sync.sync_days([date(2026, 11, 18)])

    assert result.failure is failure
    assert failure.explanation.fix in result.message
    after = one(engine, HARBOR)
    assert after.label == f"needs reconnection: {label}"
    assert after.message.startswith(failure.explanation.message)
    with engine.connect() as db:
        (notice,) = alerts.pending(db, "any")
    assert notice.reason is failure
    # Left alone, and still refused when tested.
    before = asked(sandbox, CALL_LOGS)
    with pytest.raises(PipelineError) as waiting:
        tokens.get_valid_token(HARBOR)
    assert waiting.value.failure is failure
    assert asked(sandbox, CALL_LOGS) == before
    tested = tokens.check(HARBOR)
    assert tested.failure is not None
    assert tested.failure.failure is failure
    assert asked(sandbox, "/oauth/token") == 0


@pytest.mark.parametrize(("failure", "_label", "how"), REFUSALS)
def test_a_token_that_is_refused_when_it_is_entered_changes_nothing(
    failure: FailureClass,
    _label: str,
    how: str,
    private: PrivateTokens,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    connect: Connector,
) -> None:
    connect("Harbor Dental")
    before = one(engine, HARBOR)
    token, location_id = token_of(sandbox), ELSEWHERE if how == "elsewhere" else LOCATION
    if how != "elsewhere":
        break_it(how, sandbox, engine)
    with pytest.raises(HighLevelError) as refused:
        private.connect(HARBOR, token, location_id)
    assert refused.value.failure is failure
    assert one(engine, HARBOR).token_version == before.token_version


def test_a_scope_that_is_ticked_later_works_with_the_same_token_once_it_is_tested(
    private: PrivateTokens, sandbox: RunningSandbox, engine: sa.Engine, tokens: Tokens
) -> None:
    private.connect(HARBOR, token_of(sandbox), LOCATION)
    sandbox.world.private_tokens.tick(LOCATION, AGENTS_ONLY)
    assert tokens.check(HARBOR).failure is not None
    sandbox.world.private_tokens.tick(LOCATION, ("voice-ai-dashboard.readonly",))

    assert tokens.check(HARBOR).failure is None

    assert one(engine, HARBOR).label == "connected"
    with engine.connect() as db:
        events = [entry.event for entry in history.of_user(db, HARBOR)]
        assert db.execute(sa.text("SELECT count(closed_at) FROM connection_alerts")).scalar() == 1
    assert TokenEvent.PRIVATE_TOKEN_WORKS in events


def test_a_paused_location_is_tried_again_after_its_rest_like_any_other(
    private: PrivateTokens,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    tokens: Tokens,
    clock: Clock,
) -> None:
    private.connect(HARBOR, token_of(sandbox), LOCATION)
    sandbox.world.pause(LOCATION)
    assert tokens.check(HARBOR).failure is not None
    assert one(engine, HARBOR).label == "paused by the provider"
    with engine.connect() as db:
        assert connections.due_for_refresh(db, clock()) == []
    clock.now += timedelta(hours=6)
    with engine.connect() as db:
        assert [due.user.id for due in connections.due_for_refresh(db, clock())] == [HARBOR]
    (still,) = tokens.refresh_due([HARBOR]).values()
    assert still is not None
    assert still.failure is FailureClass.LOCATION_PAUSED
    sandbox.world.resume(LOCATION)
    clock.now += timedelta(hours=6)
    assert tokens.refresh_due([HARBOR]) == {HARBOR: None}
    assert one(engine, HARBOR).label == "connected"


def test_nothing_ever_refreshes_a_private_token(
    private: PrivateTokens,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    tokens: Tokens,
    clock: Clock,
) -> None:
    private.connect(HARBOR, token_of(sandbox), LOCATION)
    clock.now += timedelta(days=400)
    with engine.connect() as db:
        assert connections.due_for_refresh(db, clock()) == []
    assert tokens.refresh_due([HARBOR]) == {HARBOR: None}
    assert tokens.refresh(HARBOR).token_version == 1
    assert tokens.get_valid_token(HARBOR) == token_of(sandbox)
    assert asked(sandbox, "/oauth/token") == 0


def test_a_token_of_ninety_days_is_one_reminder_that_a_new_one_ends(
    private: PrivateTokens,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    tokens: Tokens,
    clock: Clock,
) -> None:
    private.connect(HARBOR, token_of(sandbox), LOCATION)
    with engine.connect() as db:
        young = connections.one(db, HARBOR, clock() + timedelta(days=89))
        old = connections.one(db, HARBOR, clock() + timedelta(days=90))
    assert young is not None
    assert old is not None
    assert (young.rotation_is_due, old.rotation_is_due) == (False, True)
    assert "older than 90 days" in old.message
    assert "--private-token" in old.message
    assert old.can_sync
    clock.now += timedelta(days=90)
    tokens.get_valid_token(HARBOR)
    tokens.get_valid_token(HARBOR)
    with engine.connect() as db:
        (notice,) = alerts.pending(db, "any")
    assert notice.reason is FailureClass.PRIVATE_TOKEN_OLD

    sandbox.world.private_tokens.rotate(LOCATION)
    private.connect(HARBOR, token_of(sandbox), LOCATION)

    with engine.connect() as db:
        assert alerts.pending(db, "any") == []
