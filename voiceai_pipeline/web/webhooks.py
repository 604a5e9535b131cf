"""``POST /webhooks/highlevel``: takes HighLevel's messages.

The path is public but gives no access: a message that HighLevel did not sign, or that is about
another app, is refused and counted. A verified message is stored and answered at once;
``hint_reader`` acts on it. So the answer depends on our database only, and HighLevel repeats a
message that was not answered with 2xx (CONTRACT 13.4).
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from voiceai_pipeline.calls import hints
from voiceai_pipeline.core.settings import HighLevelSettings
from voiceai_pipeline.core.webhook import Refusal, WebhookMessage

PATH: Final = "/webhooks/highlevel"

MAX_BODY: Final = 1 << 20
"""Maximum bytes of a body; a call with its transcript has some ten thousand."""

_AT_ONCE: Final = 500
"""Messages written by one statement."""

_BODY_TIMEOUT: Final = 15.0
"""Seconds that a body may take to arrive."""

_PATIENCE: Final = 5.0
"""Seconds that a message waits for the database before it is refused, to be repeated."""


class Inbox:
    """Keeps messages, many with one statement, and counts those that are refused.

    Attributes:
        arrived: set when a message asks for something to be done.
    """

    def __init__(self, engine: sa.Engine, highlevel: HighLevelSettings) -> None:
        self.highlevel = highlevel
        self.arrived = threading.Event()
        self._engine = engine
        self._waiting: list[tuple[WebhookMessage, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._refusals: Counter[Refusal] = Counter()
        self._counting = threading.Lock()

    async def keep(self, message: WebhookMessage) -> None:
        """Returns once the message is committed.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: it could not be committed.
            TimeoutError: the database did not answer in time.
        """
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, kept))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await asyncio.wait_for(kept, _PATIENCE)

    async def _write(self) -> None:
        """Write waiting messages until none is left; those that arrive meanwhile are the next
        batch."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                try:
                    await run_in_threadpool(self._commit, [message for message, _ in batch])
                except Exception as error:  # each waiting request raises it
                    _settle((kept for _, kept in batch), error)
                else:
                    _settle(kept for _, kept in batch)
        finally:
            self._writing = None

    def _commit(self, messages: list[WebhookMessage]) -> None:
        with self._engine.begin() as db:
            has_work = hints.record(db, messages)
        if has_work:
            self.arrived.set()

    def refuse(self, reason: Refusal) -> None:
        """Count a refused message."""
        with self._counting:
            self._refusals[reason] += 1

    def take_refusals(self) -> Mapping[Refusal, int]:
        """The refusals since the last call, by reason."""
        with self._counting:
            taken, self._refusals = self._refusals, Counter()
        return taken


def _settle(waiting: Iterable[asyncio.Future[None]], error: Exception | None = None) -> None:
    for kept in waiting:
        if kept.done():  # its request has given up
            continue
        if error is None:
            kept.set_result(None)
        else:
            kept.set_exception(error)


def routes(inbox: Inbox) -> list[Route]:
    """The one public path."""

    async def take(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            verdict: WebhookMessage | Refusal = Refusal.TOO_LARGE
        else:
            verdict = hints.verified(body, request.headers, inbox.highlevel)
        if isinstance(verdict, Refusal):
            inbox.refuse(verdict)
            return _refusal(verdict)
        try:
            await inbox.keep(verdict)
        except (sa.exc.SQLAlchemyError, TimeoutError):
            text = "The message was not kept: the database does not answer. Send it again later."
            return JSONResponse({"accepted": False, "error": "unavailable", "message": text}, 503)
        return JSONResponse({"accepted": True})

    return [Route(PATH, take, methods=["POST"])]


_ANSWERS: Final = {
    Refusal.UNSIGNED: (401, "The signature does not prove that HighLevel sent this."),
    Refusal.UNREADABLE: (400, "The body is not a JSON object."),
    Refusal.TOO_LARGE: (413, f"Send at most {MAX_BODY} bytes."),
    # 2xx, so that HighLevel does not repeat the message: that would not help.
    Refusal.OTHER_APP: (200, "The message is about another app."),
}


def _refusal(reason: Refusal) -> Response:
    status, text = _ANSWERS[reason]
    return JSONResponse({"accepted": False, "error": reason.value, "message": text}, status)


async def _body(request: Request) -> bytes | None:
    """The raw body; None if it is too large. If it is interrupted or sent too slowly, only its
    beginning is returned, which the signature does not match."""
    parts: list[bytes] = []
    size = 0
    with contextlib.suppress(ClientDisconnect, TimeoutError):
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    return None
                parts.append(part)
    return b"".join(parts)
