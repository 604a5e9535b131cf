"""How long a page waits for the database."""

import asyncio

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from voiceai_pipeline.web import pages
from voiceai_pipeline.web.pages import PageError, notice_answers, reading


def page_of(engine: sa.Engine, *queries: str) -> Response:
    """A page that makes these queries."""
    notice_answers(engine)

    def handler(_: Request) -> Response:
        with engine.begin() as db:
            for query in queries:
                db.execute(sa.text(query))
        return PlainTextResponse("read")

    async def get() -> Response:
        return await reading(handler)(Request({"type": "http"}))

    return asyncio.run(get())


def test_a_page_waits_as_long_as_the_database_answers(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "READ_TIMEOUT", 3.0)
    assert page_of(engine, *["SELECT pg_sleep(1)"] * 4).body == b"read"


def test_a_page_does_not_wait_for_a_database_that_does_not_answer(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "READ_TIMEOUT", 0.3)
    with pytest.raises(PageError) as raised:
        page_of(engine, "SELECT 1", "SELECT pg_sleep(2)")
    assert raised.value.status == 503
