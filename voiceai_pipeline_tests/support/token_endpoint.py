"""Connected users, and a token endpoint that answers as each test says.

The fixtures are loaded as a pytest plugin.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    REQUESTED_SCOPES,
    Connection,
    ConnectionState,
)
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.faults import CALL_LOGS
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
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
    """What a failure that is not the user's must leave unchanged."""
    counted = ("connection_since", "failed_attempts", "last_failure")
    return {name: value for name, value in row.items() if name not in counted}


@pytest.fixture
def harbor(connect: Connector) -> Connection:
    return connect("Harbor Dental")


@pytest.fixture
def expired(harbor: Connection, clock: Clock, sandbox: RunningSandbox) -> Connection:
    """Connected, and two days later, so that the access token has expired."""
    clock.now += timedelta(days=2)
    sandbox.world.clear_requests()
    return harbor


def location_of(connection: Connection) -> str:
    assert connection.location_id is not None
    return connection.location_id


@dataclass
class Endpoint:
    """Answers token POSTs with the test's ``answer``, and pings (POSTs without a grant type) with
    ``pong``."""

    url: str = ""
    answer: Callable[[], Answer] = lambda: (500, {})
    pong: Callable[[], Answer] = lambda: (400, {"message": "Missing parameter"})
    posts: list[str] = field(default_factory=list)
    pings: int = 0


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    scripted = Endpoint()

    def answer(sent: str) -> Answer:
        if "grant" in sent:
            scripted.posts.append(sent)
            return scripted.answer()
        scripted.pings += 1
        return scripted.pong()

    with answering(answer) as url:
        scripted.url = f"{url}/oauth/token"
        yield scripted


@contextmanager
def tokens_at(
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    token_url: str,
    api_version: str = "dated",
) -> Iterator[Tokens]:
    """Tokens that are refreshed at ``token_url`` and read from the sandbox."""
    settings = replace(highlevel_settings(sandbox.url, api_version), token_url=token_url)
    with HighLevelClient(settings, sleep=clock.sleep, token_timeout=30) as client:
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
