"""What a refused or lost exchange means for the connection, and when it is replayed."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import (
    history,
    token_row,
)
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.refresh_outcome import PAUSE
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    Connection,
    ConnectionState,
)
from voiceai_pipeline.core.failures import (
    OUR_FAILURES,
    PROVIDER_FAILURES,
    FailureClass,
    PipelineError,
)
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel import errors
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import RULES, meaning
from voiceai_pipeline.sandbox.faults import TOKEN_PATH, Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.token_endpoint import (
    Endpoint,
    failure_of,
    granted,
    kept,
    location_of,
    refreshes,
    standing,
    stored,
    tokens_at,
)
from voiceai_pipeline_tests.support.token_fleet import (
    TICK,
    Provider,
    delivered,
    fleet,
    refreshing_at,
)


@pytest.mark.parametrize("patience", [1])
def test_a_requested_refresh_whose_answer_is_lost_is_replayed_at_the_next_attempt(
    harbor: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    stall = Fault("stall", location_of(harbor), path=TOKEN_PATH, seconds=30, times=1)
    sandbox.world.add_fault(stall)
    assert failure_of(lambda: tokens.refresh(harbor.user.id)) is FailureClass.IN_DOUBT
    with engine.connect() as db:
        assert [c.user.id for c in connections.due_for_refresh(db, clock.now)] == [harbor.user.id]
    assert tokens.refresh_due([harbor.user.id]) == {harbor.user.id: None}
    assert standing(engine, harbor.user.id) == (ConnectionState.CONNECTED, None)


def test_a_lost_answer_is_replayed_once_within_the_grace_period(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.add_fault(Fault("lost_token_response", location_of(expired), times=1))
    token = tokens.get_valid_token(expired.user.id)
    assert sandbox.world.grant_of(access=token.reveal()) is not None
    assert refreshes(sandbox) == [0, 200]
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)
    row = stored(engine, expired.user.id)
    assert (row["lease_id"], row["refresh_replayed"], row["is_active"]) == (None, False, True)


def test_without_grace_a_lost_answer_needs_action_after_two_posts(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.grace_seconds = 0
    sandbox.world.add_fault(Fault("lost_token_response", location_of(expired), times=1))
    for _ in range(3):
        failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
        assert failure is FailureClass.REFRESH_REJECTED
    assert refreshes(sandbox) == [0, 400]
    assert standing(engine, expired.user.id) == (
        ConnectionState.NEEDS_RECONNECT,
        FailureClass.REFRESH_REJECTED,
    )


def test_two_lost_answers_need_action_and_never_a_third_post(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    before = stored(engine, expired.user.id)
    sandbox.world.add_fault(Fault("lost_token_response", location_of(expired)))
    with pytest.raises(PipelineError, match="answer was lost twice"):
        tokens.get_valid_token(expired.user.id)
    assert (
        failure_of(lambda: tokens.get_valid_token(expired.user.id)) is FailureClass.REFRESH_REJECTED
    )
    assert refreshes(sandbox) == [0, 0]
    after = stored(engine, expired.user.id)
    assert after["refresh_token"] == before["refresh_token"]
    assert after["is_active"] is False


@pytest.mark.parametrize("patience", [1])
def test_a_timeout_is_not_replayed_at_once_but_at_the_next_attempt(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    stall = Fault("stall", location_of(expired), path=TOKEN_PATH, seconds=30, times=1)
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


def test_a_503_in_between_does_not_extend_the_grace_of_a_lost_answer(
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    sandbox: RunningSandbox,
    endpoint: Endpoint,
) -> None:
    answers = iter([(200, b"not JSON"), (503, {}), (200, b"not JSON"), (200, granted())])
    endpoint.answer = lambda: next(answers)
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens:
        assert (
            failure_of(lambda: tokens.get_valid_token(expired.user.id))
            is FailureClass.PROVIDER_ERROR
        )
        assert stored(engine, expired.user.id)["is_active"] is True
        assert standing(engine, expired.user.id)[0] is ConnectionState.IN_DOUBT
        with pytest.raises(PipelineError, match="retried at 13:00 UTC"):
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
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens:
        for _ in range(4 * 24):  # four days, once an hour
            failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
            assert failure in (FailureClass.IN_DOUBT, FailureClass.PROVIDER_ERROR)
            clock.now += timedelta(hours=1)
        assert len(endpoint.posts) == 1
        assert standing(engine, expired.user.id)[0] is ConnectionState.IN_DOUBT
        endpoint.pong = lambda: (400, {"message": "Missing parameter: grantType"})
        assert tokens.get_valid_token(expired.user.id) == Secret("INVENTED-ACCESS-1")
    assert len(endpoint.posts) == 2


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
def test_a_failure_of_ours_or_theirs_leaves_the_user_unchanged(
    fault: Fault,
    failure: FailureClass | None,
    expired: Connection,
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    tokens = Tokens(engine, vault, client, now=clock, sleep=clock.sleep)
    before = stored(engine, expired.user.id)
    sandbox.world.add_fault(fault)
    got = failure_of(lambda: tokens.get_valid_token(expired.user.id))
    assert failure in (None, got)
    assert not got.needs_action
    assert kept(stored(engine, expired.user.id)) == kept(before)
    # Only a rate limit, which spends nothing, is waited for: a minute, longer each time.
    assert len(refreshes(sandbox)) == (7 if fault.kind == "rate_limit" else 1)
    sandbox.world.clear_faults()
    tokens.get_valid_token(expired.user.id)


def test_an_unreachable_endpoint_leaves_the_user_unchanged(
    expired: Connection, engine: sa.Engine, vault: TokenVault, clock: Clock, sandbox: RunningSandbox
) -> None:
    before = stored(engine, expired.user.id)
    with tokens_at(sandbox, engine, vault, clock, "http://127.0.0.1:9/oauth/token") as tokens:
        failure = failure_of(lambda: tokens.get_valid_token(expired.user.id))
    assert failure is FailureClass.UNREACHABLE
    assert kept(stored(engine, expired.user.id)) == kept(before)


def test_a_paused_location_keeps_its_tokens_and_resumes_automatically(
    expired: Connection, engine: sa.Engine, tokens: Tokens, clock: Clock, sandbox: RunningSandbox
) -> None:
    before = stored(engine, expired.user.id)
    sandbox.world.pause(location_of(expired))
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
    sandbox.world.resume(location_of(expired))
    clock.now += PAUSE
    tokens.get_valid_token(expired.user.id)
    assert standing(engine, expired.user.id) == (ConnectionState.CONNECTED, None)
    assert stored(engine, expired.user.id)["next_attempt_at"] is None


def test_a_forced_attempt_ends_a_pause_early(
    expired: Connection, engine: sa.Engine, tokens: Tokens, sandbox: RunningSandbox
) -> None:
    sandbox.world.pause(location_of(expired))
    failure_of(lambda: tokens.get_valid_token(expired.user.id))
    sandbox.world.resume(location_of(expired))
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


S, F = ConnectionState, FailureClass


MEANINGS = [
    # status, message, class, state afterwards, notices
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
    provider.failure = (status, {"message": message, "traceId": "trace-00000001"})
    with refreshing_at(engine, vault, clock, provider) as tokens:
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
        assert delivered(engine) == notices
        for _ in range(20):
            with pytest.raises(PipelineError):
                tokens.get_valid_token(user)
        # Their lasting failures raise an alert after two hours; ours at once, for all users.
        lasting = failure in PROVIDER_FAILURES | {F.UNKNOWN_ANSWER}
        ours = failure in OUR_FAILURES
        assert delivered(engine) == [("Shop", "opened")] * lasting + [("app", "opened")] * ours


def test_every_rule_for_the_token_endpoint_has_a_row_above() -> None:
    used = set()
    for status, message, *_ in MEANINGS:
        for number, rule in enumerate(RULES):
            fits = rule.endpoint is errors.Endpoint.TOKEN and status in rule.statuses
            if fits and meaning(errors.Endpoint.TOKEN, status, message) is rule.failure:
                used.add(number)
    unused = [
        r for n, r in enumerate(RULES) if r.endpoint is errors.Endpoint.TOKEN and n not in used
    ]
    assert unused == []
