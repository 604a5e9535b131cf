"""A HighLevel on loopback that lists prepared calls, byte for byte, with faults in its lists.

Items are JSON texts, since what breaks a reader (an integer of 5,000 digits, a lone surrogate) is
often what Python's own library does not write.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

import sqlalchemy as sa

from voiceai_pipeline.calls.sync import Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.highlevel import open_client
from voiceai_pipeline_tests.support.scripted_server import Asked, Reply, Scripted
from voiceai_pipeline_tests.support.synced_calls import DAY, UTC_ZONE, midnight
from voiceai_pipeline_tests.support.user_rows import add, legacy


def ordinary(call_id: str = "call-1", minute: int = 600, **fields: Any) -> dict[str, Any]:
    """An ordinary call, at a minute of the day."""
    at = midnight(DAY) + timedelta(minutes=minute)
    return {
        "id": call_id,
        "contactId": f"con-{call_id}",
        "agentId": "agent-1",
        "isAgentDeleted": False,
        "fromNumber": "+15550100001",
        "createdAt": f"{at:%Y-%m-%dT%H:%M:%S}.000Z",
        "duration": 65,
        "trialCall": False,
        "executedCallActions": [],
        "summary": "A short call.",
        "transcript": "bot:Hello\nhuman:Hi\nbot:Ok\nhuman:Bye\n",
        "translation": {},
        "extractedData": {},
        "messageId": f"m-{call_id}",
    } | fields


@dataclass(frozen=True)
class Listed:
    """An item and the instant (UTC) by which the server sorts and filters it."""

    at: datetime
    text: str

    @classmethod
    def of(cls, item: Any, at: datetime | None = None) -> Self:
        return cls(at or datetime.fromisoformat(item["createdAt"]), json.dumps(item))


@dataclass
class CallListing:
    """A location's list.

    Attributes:
        page_size: the most items of a page, whatever is asked for.
        total: from the number of items that match; None: the page does not say.
        hidden: how many items of a full page the server leaves out.
        prefix: bytes before each page.
    """

    items: Sequence[Listed] = ()
    page_size: int = 50
    total: Callable[[int], Any] | None = lambda count: count
    hidden: int = 0
    prefix: bytes = b""
    requests: int = field(default=0, init=False)

    def page(self, asked: Asked) -> bytes:
        self.requests += 1
        start, end, number, size = (
            int(asked.query[name][0]) for name in ("startDate", "endDate", "page", "pageSize")
        )
        instants = [datetime.fromtimestamp(bound / 1000, UTC) for bound in (start, end)]
        found = sorted(
            (one for one in self.items if instants[0] <= one.at <= instants[1]),
            key=lambda one: one.at,
        )
        size = min(size, self.page_size)
        page = found[(number - 1) * size : number * size]
        if len(page) == size:
            page = page[: size - self.hidden]
        total = "" if self.total is None else f'"total": {json.dumps(self.total(len(found)))}, '
        items = ", ".join(one.text for one in page)
        return self.prefix + f'{{{total}"callLogs": [{items}]}}'.encode("utf-8", "surrogatepass")


class ListServer(Scripted):
    """Serves the lists of ``locations``; every other location has no calls."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.locations: dict[str, CallListing] = {}

    def _answer(self, asked: Asked) -> Reply:
        (location_id,) = asked.query["locationId"]
        return Reply(self.locations.setdefault(location_id, CallListing()).page(asked))


def add_location(engine: sa.Engine, number: int, location_id: str) -> UUID:
    """A user of this number, connected to a location, whose access token does not expire."""
    user_id = UUID(int=number)
    add(engine, user_id, f"User {number:03}")
    legacy(
        engine,
        user_id,
        location_id=location_id,
        token_expires_at=datetime(2027, 11, 1, tzinfo=UTC),
    )
    return user_id


def sync_from(
    server: ListServer, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> tuple[HighLevelClient, Sync]:
    """A sync of what the server lists, and its client, which the caller closes."""
    client = open_client(server.url, clock)
    tokens = Tokens(engine, vault, client, now=clock)
    return client, Sync(engine, tokens, client, UTC_ZONE, now=clock)
