"""A list of calls as a file: exactly the calls that its address names, streamed."""

import asyncio
import contextlib
import importlib.util
import threading
from collections.abc import Generator
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from voiceai_pipeline.calls import call_search
from voiceai_pipeline.calls.call_content import Kind
from voiceai_pipeline.marts.export import ExportError, Format, stream
from voiceai_pipeline.web import call_scope
from voiceai_pipeline.web.call_query import PATH, CallQuery
from voiceai_pipeline.web.pages import PageError
from voiceai_pipeline.web.site import site_of

EXPORT: Final = f"{PATH}/export"

AT_ONCE: Final = 3
"""Maximum number of concurrent exports: each holds a connection to the database."""

STALLED: Final = 120.0
"""Seconds for which a piece of the file waits for its reader; then the export is given up."""

_TYPES: Final = {
    Format.CSV: "text/csv; charset=utf-8",
    Format.JSONL: "application/jsonl",
    Format.PARQUET: "application/vnd.apache.parquet",
}
_slots: Final = threading.BoundedSemaphore(AT_ONCE)


def formats() -> list[Format]:
    """The formats that this installation can write."""
    has_parquet = importlib.util.find_spec("pyarrow") is not None
    return [one for one in Format if one is not Format.PARQUET or has_parquet]


def routes() -> list[Route]:
    """``/calls/export``."""
    return [Route(EXPORT, _export, methods=["GET"])]


async def _export(request: Request) -> Response:
    format_ = _format(request.query_params.get("format", "csv"))
    if not _slots.acquire(blocking=False):
        raise PageError(
            503,
            "Other exports are running",
            f"At most {AT_ONCE} exports run at a time.",
            "Wait until one has ended, then try again.",
        )
    try:
        body = await run_in_threadpool(_open, request, format_)
    except BaseException:
        _slots.release()
        raise
    return _Export(body, format_)


def _format(text: str) -> Format:
    try:
        return Format(text)
    except ValueError:
        raise PageError(
            404, "No such format", "Calls are exported as CSV, JSON Lines and Parquet.",
            "Choose one of them in the list of calls.",
        ) from None  # fmt: skip


class _Export(StreamingResponse):
    """A file that is sent as it is written. Its slot is freed afterwards, even if the client left
    before the first piece or stopped reading."""

    def __init__(self, pieces: Generator[bytes, None, None], format_: Format) -> None:
        name = f'attachment; filename="calls.{format_.value}"'
        super().__init__(pieces, media_type=_TYPES[format_], headers={"Content-Disposition": name})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALLED):
                await send(message)

        try:
            # The file ends incomplete, which its reader notices.
            with contextlib.suppress(TimeoutError):
                await super().__call__(scope, receive, send_in_time)
        finally:
            try:
                await run_in_threadpool(self._pieces.close)
            finally:
                _slots.release()


def _open(request: Request, format_: Format) -> Generator[bytes, None, None]:
    site = site_of(request)
    query = CallQuery.of(request.query_params)
    may = call_scope.may_see_content(request)
    content = may and request.query_params.get("content") == "yes"
    with site.pipeline.engine.begin() as db:
        wanted = call_scope.read_scope(db, site, query, content=may).wanted
        if content:
            # Recorded before the first byte is sent.
            call_scope.record(db, request, Kind.EXPORT, call_search.exact_count(db, wanted))
    try:
        return stream(site.pipeline.engine, wanted, format_, content=content)
    except ExportError as error:
        text, _, remedy = str(error).partition(". ")
        raise PageError(501, "Parquet is not installed", f"{text}.", remedy) from None
