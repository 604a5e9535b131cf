"""Many connected users, and a token endpoint that fails for all or one of them as each test says.

The fixtures are loaded as a pytest plugin; time is simulated.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import (
    alerts,
)
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import (
    REQUESTED_SCOPES,
)
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.receivers import Answer, answering

CALLBACK = "http://127.0.0.1:9"


TICK = timedelta(minutes=10)


@dataclass
class Provider:
    """A token endpoint for a fleet: rotates whatever it is given, or fails as ``failure`` says.

    Attributes:
        failure: the status and body instead of a grant; None: it works. A status of 0 drops the
            connection after the request, -1 never answers.
        half: pings are answered all the same.
        only: the refresh token that fails; None: all of them.
        spent: how often each refresh token was presented.
        pings: requests that named no grant.
    """

    url: str = ""
    failure: tuple[int, dict[str, Any]] | None = None
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
        if self.failure is not None and not spared:
            return self.failure
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
    endpoint = Provider()
    lock = threading.Lock()
    ended = threading.Event()

    def answer(sent: str) -> Answer | None:
        with lock:
            status, body = endpoint.answer(parse_qs(sent))
        if status == -1:
            ended.wait(5)
        return (status, body) if status > 0 else None

    with answering(answer) as url:
        endpoint.url = f"{url}/oauth/token"
        yield endpoint
        ended.set()


@contextmanager
def refreshing_at(
    engine: sa.Engine, vault: TokenVault, clock: Clock, provider: Provider, timeout: float = 30
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


def delivered(engine: sa.Engine, channel: str = "test") -> list[tuple[str, str]]:
    """Deliver the pending notices: the user, and whether the problem opened or closed."""
    with engine.begin() as db:
        notices = alerts.pending(db, channel)
        for notice in notices:
            alerts.mark_delivered(db, notice, channel)
    return [(n.user.name if n.user else "app", n.moment) for n in notices]


def app_events(engine: sa.Engine) -> list[str]:
    with engine.connect() as db:
        query = "SELECT event FROM token_events WHERE user_id IS NULL ORDER BY id"
        return list(db.execute(sa.text(query)).scalars())
