"""Pausing and resuming a user's syncs: what is kept, what is refused, and what goes on."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import alerts, history, pauses
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.app_removal import AppRemoval
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.history import Actor, Entry, TokenEvent
from voiceai_pipeline.connections.pauses import REASON_LENGTH, Pauses
from voiceai_pipeline.connections.private_tokens import PrivateTokens
from voiceai_pipeline.connections.queries import UnknownUserError, stored_connection
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.failures import FailureClass
from voiceai_pipeline.core.pause import Pause
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.hinted_calls import now
from voiceai_pipeline_tests.support.token_endpoint import failure_of, location_of, stored


@pytest.fixture
def pausing(engine: sa.Engine, clock: Clock) -> Pauses:
    return Pauses(engine, actor=Actor("the tests"), now=clock)


@pytest.fixture
def harbor(connect: Connector, sandbox: RunningSandbox) -> Connection:
    connected = connect("Harbor Dental")
    sandbox.world.clear_requests()
    return connected


def events(engine: sa.Engine, user_id: UUID) -> list[Entry]:
    with engine.connect() as db:
        return history.of_user(db, user_id)


def test_a_pause_says_who_when_and_why_and_destroys_nothing(
    harbor: Connection, engine: sa.Engine, pausing: Pauses, clock: Clock
) -> None:
    before = stored(engine, harbor.user.id)
    assert pausing.pause([harbor.user.id], "moving\n house\x1b[2J") == {harbor.user.id}

    paused = stored_connection(engine, harbor.user.id, clock)
    assert paused.pause == Pause(clock.now, "the tests", "moving house[2J")
    assert (paused.state, paused.obstacle) == (ConnectionState.CONNECTED, None)
    assert (paused.can_sync, paused.sync_obstacle) == (False, FailureClass.SYNC_PAUSED)
    assert stored(engine, harbor.user.id) == before
    latest = events(engine, harbor.user.id)[0]
    assert (latest.event, latest.detail) == (TokenEvent.SYNC_PAUSED, "moving house[2J")
    assert (latest.at, latest.actor, latest.state) == (clock.now, "the tests", "connected")

    clock.now += timedelta(days=3)
    assert pausing.resume([harbor.user.id]) == {harbor.user.id}
    assert stored_connection(engine, harbor.user.id, clock).can_sync
    assert events(engine, harbor.user.id)[0].event is TokenEvent.SYNC_RESUMED


def test_a_second_pause_or_resumption_changes_nothing(
    harbor: Connection, engine: sa.Engine, pausing: Pauses, clock: Clock
) -> None:
    started = clock.now
    pausing.pause([harbor.user.id], "first")
    clock.now += timedelta(minutes=1)
    assert pausing.pause([harbor.user.id, harbor.user.id], "second") == set()

    assert stored_connection(engine, harbor.user.id).pause == Pause(started, "the tests", "first")
    assert pausing.resume([harbor.user.id]) == {harbor.user.id}
    assert pausing.resume([harbor.user.id]) == set()
    assert [one.event for one in events(engine, harbor.user.id)][:3] == [
        TokenEvent.SYNC_RESUMED,
        TokenEvent.SYNC_PAUSED,
        TokenEvent.CONNECTED,
    ]


def test_a_stranger_among_several_users_changes_none(
    harbor: Connection, engine: sa.Engine, pausing: Pauses
) -> None:
    stranger = uuid4()
    for change in (pausing.pause, pausing.resume):
        with pytest.raises(UnknownUserError, match=str(stranger)):
            change([harbor.user.id, stranger])
    assert stored_connection(engine, harbor.user.id).pause is None


def test_a_long_reason_is_cut(harbor: Connection, engine: sa.Engine, pausing: Pauses) -> None:
    pausing.pause([harbor.user.id], "x" * 5_000)
    pause = stored_connection(engine, harbor.user.id).pause
    assert pause is not None
    assert len(pause.reason) == REASON_LENGTH


def test_operators_who_pause_and_resume_the_same_users_at_once_do_not_block_each_other(
    connect: Connector, engine: sa.Engine, pausing: Pauses
) -> None:
    users = connect.add("Harbor Dental", "Maple Plumbing", "Pine Realty")
    start = Barrier(4)

    def press(number: int) -> int:
        start.wait()
        order = users if number % 2 else users[::-1]
        return sum(len(pausing.pause(order, "why")) - len(pausing.resume(order)) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        left = sum(pool.map(press, range(4)))
    with engine.connect() as db:
        assert pauses.count(db) == left


# Tokens ------------------------------------------------------------------------------------------


def test_a_paused_users_token_is_refreshed_when_due_and_opens_no_request(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, pausing: Pauses, clock: Clock,
    sandbox: RunningSandbox,
) -> None:  # fmt: skip
    spend = tokens.spender(harbor.user.id)
    pausing.pause([harbor.user.id])
    asked: list[Secret] = []
    for request in (
        lambda: tokens.spend(harbor.user.id, asked.append),
        lambda: tokens.spend(harbor.user.id, asked.append, force=True),
        lambda: spend(asked.append),
    ):
        assert failure_of(request) is FailureClass.SYNC_PAUSED
    check = tokens.check(harbor.user.id)
    assert check.failure is not None
    assert check.failure.failure is FailureClass.SYNC_PAUSED
    assert (asked, sandbox.requests) == ([], [])

    clock.now += timedelta(days=2)
    with engine.connect() as db:
        assert [one.user.id for one in connections.due_for_refresh(db, clock.now)] == [
            harbor.user.id
        ]
    assert tokens.refresh_due([harbor.user.id]) == {harbor.user.id: None}
    assert stored(engine, harbor.user.id)["token_version"] == harbor.token_version + 1
    assert tokens.refresh(harbor.user.id).token_version == harbor.token_version + 2
    assert {one.path for one in sandbox.requests} == {"/oauth/token"}


def test_a_reader_at_work_stops_at_its_next_look_and_goes_on_after_the_pause(
    harbor: Connection, engine: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock,
    pausing: Pauses,
) -> None:  # fmt: skip
    seconds = [0.0]
    tokens = Tokens(engine, vault, client, now=clock, monotonic=lambda: seconds[0])
    spend = tokens.spender(harbor.user.id)
    token = spend(lambda token: token)
    pausing.pause([harbor.user.id])
    seconds[0] = 1.0
    assert failure_of(lambda: spend(lambda token: token)) is FailureClass.SYNC_PAUSED
    pausing.resume([harbor.user.id])
    seconds[0] = 2.0
    assert spend(lambda token: token) == token


def test_a_private_token_that_waits_for_its_location_is_not_tried_during_a_pause(
    connect: Connector, engine: sa.Engine, vault: TokenVault, client: HighLevelClient,
    tokens: Tokens, pausing: Pauses, sandbox: RunningSandbox, clock: Clock,
) -> None:  # fmt: skip
    (user_id,) = connect.add("Harbor Dental")
    location = "LocHarborDental000001"
    token = Secret(sandbox.world.private_tokens.of(location))
    PrivateTokens(engine, vault, client, now=clock).connect(user_id, token, location)
    sandbox.world.pause(location)
    assert tokens.check(user_id).failure is not None
    pausing.pause([user_id])
    sandbox.world.resume(location)
    sandbox.world.clear_requests()
    clock.now += timedelta(days=1)

    with engine.connect() as db:
        assert connections.due_for_refresh(db, clock.now) == []
    (error,) = tokens.refresh_due([user_id]).values()
    assert error is not None
    assert error.failure is FailureClass.SYNC_PAUSED
    assert sandbox.requests == []


def test_a_message_that_the_app_was_removed_reads_nothing_of_a_paused_user(
    connect: Connector, engine: sa.Engine, vault: TokenVault, client: HighLevelClient,
    pausing: Pauses, sandbox: RunningSandbox, clock: Clock,
) -> None:  # fmt: skip
    clock.now = now()  # the check is by the database's clock
    harbor = connect("Harbor Dental")
    pausing.pause([harbor.user.id])
    sandbox.world.revoke(location_of(harbor))
    sandbox.world.clear_requests()
    removal = AppRemoval(engine, vault, client, Actor("webhook"))

    assert removal.check(location_of(harbor), None) == []
    assert sandbox.requests == []


# The connection changes --------------------------------------------------------------------------


def test_a_pause_outlives_disconnecting_and_reconnecting(
    harbor: Connection, engine: sa.Engine, consent: Consent, connect: Connector, pausing: Pauses
) -> None:
    pausing.pause([harbor.user.id], "season is over")
    gone = consent.disconnect(harbor.user.id)
    assert (gone.label, gone.sync_obstacle) == (
        "disconnected, syncs paused",
        FailureClass.SYNC_PAUSED,
    )

    back = connect("Harbor Dental")
    assert back.label == "connected, syncs paused"
    assert back.pause is not None
    assert back.pause.reason == "season is over"
    assert not back.can_sync


def test_a_consent_during_a_pause_is_a_success(
    connect: Connector, engine: sa.Engine, consent: Consent, pausing: Pauses
) -> None:
    (user_id,) = connect.add("Harbor Dental")
    pausing.pause([user_id])
    begun = consent.begin(user_id)
    after = consent.finish(begun.state, connect.code(DEMO["Harbor Dental"]))
    assert (after.obstacle, after.can_sync) == (None, False)
    assert consent.outcome(begun.state) == "connected"


def test_a_user_who_was_deleted_leaves_no_pause(
    connect: Connector, engine: sa.Engine, pausing: Pauses
) -> None:
    (user_id,) = connect.add("Harbor Dental")
    pausing.pause([user_id])
    with engine.begin() as db:
        db.execute(sa.text("DELETE FROM users WHERE id = :user"), {"user": user_id})
        assert pauses.count(db) == 0


def test_a_broken_connection_raises_its_alert_only_once_the_user_is_resumed(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, pausing: Pauses, clock: Clock,
    sandbox: RunningSandbox,
) -> None:  # fmt: skip
    pausing.pause([harbor.user.id])
    sandbox.world.revoke(location_of(harbor))
    clock.now += timedelta(days=2)
    assert tokens.refresh_due([harbor.user.id])[harbor.user.id] is not None
    broken = stored_connection(engine, harbor.user.id, clock)
    assert broken.state is ConnectionState.NEEDS_RECONNECT
    assert "paused" in broken.cause
    assert "Failed to refresh token" in broken.cause
    with engine.connect() as db:
        assert (alerts.pending(db, "mail"), alerts.open_problems(db)) == ([], [])

    pausing.resume([harbor.user.id])
    with engine.connect() as db:
        (notice,) = alerts.pending(db, "mail")
        assert len(alerts.open_problems(db)) == 1
    assert notice.reason is FailureClass.REFRESH_REJECTED
