"""What the token endpoint may answer: a pair that arrived is never dropped (T7), whatever its
lifetime, scopes, white space or encoding look like."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.token_row import LIFELESS_REST
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    DOCUMENTED_LIFETIME,
    SYNC_SCOPE,
    Connection,
    ConnectionState,
    OAuthToken,
    missing_scopes,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.grant import body_of, grant_of
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.repetition import repeated, soak
from voiceai_pipeline_tests.support.token_endpoint import Endpoint, stored, tokens_at

CASES = json.loads((Path(__file__).parents[1] / "data/token_answers.json").read_text())["answers"]
PATH = "/oauth/token"


def granted(content: bytes) -> OAuthToken:
    return grant_of(body_of(content), path=PATH)


def content_of(case: dict[str, Any]) -> bytes:
    if "body_base64" in case:
        return base64.b64decode(case["body_base64"])
    return json.dumps(case["body"]).encode()


def jwt(**claims: object) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{part}.c2ln"


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["title"]))
def test_an_odd_answer_connects_with_one_post_and_keeps_its_pair(
    case: dict[str, Any],
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    endpoint.answer = lambda: (200, content_of(case))
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens:
        for _ in range(3):
            assert tokens.get_valid_token(expired.user.id) == Secret("at-2")
        tokens.refresh_due([expired.user.id])
    assert len(endpoint.posts) == 1
    row = stored(engine, expired.user.id)
    of_row = ("refresh_token", expired.user.id, row["token_version"])
    assert vault.decrypt(row["refresh_token"], *of_row) == Secret("rt-2")
    with engine.begin() as db:
        now = connections.one(db, expired.user.id, clock.now)
        assert now is not None
        assert (now.state, now.missing_scopes) == (ConnectionState.CONNECTED, ())
        remark = history.of_user(db, expired.user.id)[0].detail
    assert bool(remark) is any(
        word in case["right"] for word in ("warning", "as above", "documented")
    )
    assert "-2" not in remark


@pytest.mark.parametrize(
    ("fields", "life"),
    [
        ({}, DOCUMENTED_LIFETIME),
        ({"expires_in": None}, DOCUMENTED_LIFETIME),
        ({"expires_in": "1e400"}, DOCUMENTED_LIFETIME),
        ({"expires_in": 10**12}, DOCUMENTED_LIFETIME),
        ({"expires_in": "soon"}, DOCUMENTED_LIFETIME),
        ({"expires_in": True}, DOCUMENTED_LIFETIME),
        ({"expires_in": []}, DOCUMENTED_LIFETIME),
        ({"expires_in": -5}, timedelta()),
        ({"expires_in": "0"}, timedelta()),
        ({"expires_in": 86399.9}, timedelta(seconds=86_399)),
        ({"expires_at": "2026-11-20T13:00:00Z"}, timedelta(hours=1)),
        ({"expires_at": "2026-11-20T14:00:00+01:00"}, timedelta(hours=1)),
        ({"expires_at": "2026-11-20T13:00:00"}, timedelta(hours=1)),
        ({"expiresAt": (NOON + timedelta(hours=1)).timestamp()}, timedelta(hours=1)),
        ({"expires_at": 1000 * (NOON + timedelta(hours=1)).timestamp()}, timedelta(hours=1)),
        ({"expires_at": "2026-11-20T11:00:00Z"}, timedelta()),
        ({"expires_at": "2999-01-01T00:00:00Z"}, DOCUMENTED_LIFETIME),
        ({"expires_at": "tomorrow"}, DOCUMENTED_LIFETIME),
        (
            {"access_token": jwt(exp=(NOON + timedelta(hours=3)).timestamp())},
            timedelta(hours=3),
        ),
        ({"access_token": jwt(exp="never")}, DOCUMENTED_LIFETIME),
        ({"access_token": "not.a.token"}, DOCUMENTED_LIFETIME),
    ],
)
def test_a_lifetime_is_read_from_wherever_it_makes_sense(
    fields: dict[str, Any], life: timedelta
) -> None:
    body = {"access_token": "at-2", "refresh_token": "rt-2"} | fields
    assert granted(json.dumps(body).encode()).lifetime(NOON) == life


_NUMBER = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9),
    st.lists(st.integers(), max_size=2), st.integers(10**400, 10**401),
)  # fmt: skip
_SPACE = st.text("\r\n\t \u00a0\u200b\ufeff\0", max_size=3)
_SCOPES = st.sampled_from(
    [f"{SYNC_SCOPE} locations.readonly", f"locations.readonly,{SYNC_SCOPE}",
     f"locations.readonly; {SYNC_SCOPE}", f"{SYNC_SCOPE}+locations.readonly",
     [SYNC_SCOPE, "locations.readonly"]]
)  # fmt: skip
_ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])


@soak
@settings(max_examples=repeated(200, 1_000))
@given(
    st.dictionaries(st.sampled_from(["expires_in", "expiresIn", "expires_at"]), _NUMBER),
    _SPACE, _SPACE, _SCOPES, _ENCODINGS, st.booleans(), st.booleans(),
    st.sampled_from(["", "\r\n\t "]), st.sampled_from(["", "}", "\0", " {}"]),
)  # fmt: skip
def test_no_generated_answer_loses_its_pair(
    life: dict[str, Any], before: str, after: str, scope: Any, encoding: str,
    camel: bool, with_error: bool, ahead: str, behind: str,
) -> None:  # fmt: skip
    names = ("accessToken", "refreshToken") if camel else ("access_token", "refresh_token")
    pair = {names[0]: f"{before}at-2{after}", names[1]: f"{after}rt-2{before}", "scope": scope}
    body = life | pair | ({"statusCode": 400, "message": "odd"} if with_error else {})
    token = granted(f"{ahead}{json.dumps(body)}{behind}".encode(encoding))
    assert (token.access_token, token.refresh_token) == (Secret("at-2"), Secret("rt-2"))
    assert missing_scopes(token.scope) == ()
    assert timedelta() <= token.lifetime(datetime.now(UTC)) <= timedelta(days=366)


@pytest.mark.parametrize(
    "content",
    [
        b'{"access_token": "at-2", "expires_in": 86399, "refresh_token": "rt-2", "sco',
        b'{"access_token": "at-2\n", "refresh_token": "rt-2"}',
        b'{"name": "Caf\xe9", "access_token": "at-2", "refresh_token": "rt-2"}',
        b'{"x": ' + b"[" * 100_000 + b', "access_token": "at-2", "refresh_token": "rt-2"',
    ],
    ids=["cut off", "raw line feed", "not UTF-8", "too deep"],
)
def test_a_whole_pair_is_read_out_of_a_broken_document(content: bytes) -> None:
    token = granted(content)
    assert (token.access_token, token.refresh_token) == (Secret("at-2"), Secret("rt-2"))


@pytest.mark.parametrize(
    "content",
    [
        b'{"access_token": "at-2", "expires_in": 86399, "refresh_token": "rt-',
        b'{"access_token": "at-2", "expires_in": 863',
        b"<html>",
        b"",
    ],
)
def test_half_a_pair_of_a_broken_document_is_no_answer(content: bytes) -> None:
    with pytest.raises(ValueError, match="no JSON"):
        body_of(content)


@pytest.mark.parametrize("value", [None, "", 5, True, [], "two\nlines", "t\u00f6ken"])
def test_an_answer_without_any_usable_token_is_malformed(value: object) -> None:
    body = {"access_token": value, "refresh_token": value, "expires_in": 86_399}
    with pytest.raises(HighLevelError) as caught:
        granted(json.dumps(body).encode())
    assert caught.value.failure is FailureClass.MALFORMED
    assert caught.value.sent


def test_a_pair_without_a_lifetime_is_used_for_a_while_and_then_refreshed(
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    numbers = iter(range(2, 9))

    def lifeless() -> tuple[int, object]:
        number = next(numbers)
        pair = {"access_token": f"at-{number}", "refresh_token": f"rt-{number}", "expires_in": 0}
        return 200, pair

    endpoint.answer = lifeless
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens:
        assert tokens.get_valid_token(expired.user.id) == Secret("at-2")
        clock.now += LIFELESS_REST - timedelta(seconds=1)
        assert tokens.get_valid_token(expired.user.id) == Secret("at-2")
        with engine.begin() as db:
            assert connections.due_for_refresh(db, clock.now) == []
        clock.now += timedelta(seconds=1)
        assert tokens.get_valid_token(expired.user.id) == Secret("at-3")
        # What the API refuses, and what an operator asks for, is refreshed at once.
        assert tokens.get_valid_token(expired.user.id, rejected=Secret("at-3")) == Secret("at-4")
        tokens.refresh(expired.user.id)
    assert len(endpoint.posts) == 4


def test_a_lone_refresh_token_is_kept_and_used_after_a_rest(
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    endpoint.answer = lambda: (200, {"refresh_token": "rt-2", "expires_in": 86_399})
    with tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens:
        for _ in range(3):
            with pytest.raises(PipelineError, match="granted a refresh token only"):
                tokens.get_valid_token(expired.user.id)
        assert len(endpoint.posts) == 1
        endpoint.answer = lambda: (200, {"access_token": "at-3", "refresh_token": "rt-3"})
        clock.now += LIFELESS_REST
        assert tokens.get_valid_token(expired.user.id) == Secret("at-3")
    assert "rt-2" in endpoint.posts[-1]


def test_an_echo_of_the_refresh_token_is_no_grant(
    expired: Connection,
    endpoint: Endpoint,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
) -> None:
    before = stored(engine, expired.user.id)
    of_row = ("refresh_token", expired.user.id, before["token_version"])
    spent = vault.decrypt(before["refresh_token"], *of_row)
    endpoint.answer = lambda: (200, {"refresh_token": spent.reveal()})
    with (
        tokens_at(sandbox, engine, vault, clock, endpoint.url) as tokens,
        pytest.raises(PipelineError),
    ):
        tokens.get_valid_token(expired.user.id)
    assert stored(engine, expired.user.id)["token_version"] == before["token_version"]


# Spellings ----------------------------------------------------------------------------------------

GRANT = {"access_token": "ACCESS", "expires_in": 86399, "refresh_token": "REFRESH"}


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    "body",
    [
        GRANT,
        {"accessToken": "ACCESS", "expiresIn": 86399, "refreshToken": "REFRESH"},
        {"access_token": "ACCESS", "expiresIn": "86399", "refreshToken": "REFRESH"},
        GRANT | {"expires_in": 86399.0},
        GRANT | {"access_token": None, "accessToken": "ACCESS"},
    ],
)
def test_a_grant_is_read_in_every_spelling(body: object) -> None:
    token = granted(_json(body))
    assert token.access_token.reveal() == "ACCESS"
    assert token.expires_in == 86399
    assert token.refresh_token is not None
    assert token.refresh_token.reveal() == "REFRESH"


def test_what_a_grant_leaves_out_is_none() -> None:
    token = granted(_json({"access_token": "ACCESS", "expires_in": 1}))
    assert token == OAuthToken(Secret("ACCESS"), 1)


@pytest.mark.parametrize("refresh_token", [None, "", 5, []])
def test_an_unusable_refresh_token_counts_as_left_out(refresh_token: object) -> None:
    assert granted(_json(GRANT | {"refresh_token": refresh_token})).refresh_token is None
