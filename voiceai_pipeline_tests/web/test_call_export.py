"""Exports of a list of calls: exactly its rows, in its order, harmless in a spreadsheet."""

import asyncio
import csv
import io
import json
import threading
from collections.abc import Generator, Iterator
from datetime import timedelta

import pytest
from pyarrow import parquet
from starlette.types import Message

from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.marts.export import Format
from voiceai_pipeline.web import call_export
from voiceai_pipeline_tests.support.call_desk import (
    HARBOR,
    MAPLE,
    MORNING,
    NEW_YORK,
    CallDesk,
    running_desk,
)

DAY = "from=2026-11-18&to=2026-11-18"
CONTENT = {"from_number", "contact_id", "summary", "transcript", "extracted_data"}


@pytest.fixture(scope="module")
def desk(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CallDesk]:
    with running_desk(postgres, template, tmp_path_factory.mktemp("export")) as desk:
        desk.location(HARBOR, "Harbor Dental", NEW_YORK)
        desk.location(MAPLE, "=cmd|'/c calc'!A0", NEW_YORK)
        for n in range(30):
            desk.call(
                (HARBOR, MAPLE)[n % 2],
                MORNING + timedelta(minutes=n // 3),
                summary=("=1+1", "Grüße, 名前\r\n", 'a "quoted", one', None)[n % 4],
                extracted_data={"name": "Pat", "n": n},
                is_trial=n % 10 == 0,
                duration_seconds=float(n),
            )
        desk.index()
        yield desk


def export(desk: CallDesk, query: str, **role: bool) -> bytes:
    with desk.visitor(**role) as visitor:
        answer = visitor.get(f"/calls/export?{DAY}&{query}")
    assert answer.status_code == 200, answer.text
    assert "attachment" in answer.headers["Content-Disposition"]
    return answer.content


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def listed(desk: CallDesk, query: str) -> list[str]:
    import re

    with desk.visitor() as visitor:
        page = visitor.get(f"/calls?{DAY}&{query}").text
    return re.findall(r'class="open" href="/calls/[^/]+/([^"?]+)', page)


@pytest.mark.parametrize(
    "query",
    ["", "order=asc", "sort=duration", "show=test", f"location={HARBOR}&min=5", "q=quoted",
     "show=all&sort=seen&max=12"],
)  # fmt: skip
def test_an_export_has_exactly_the_rows_of_the_list_in_their_order(
    desk: CallDesk, query: str
) -> None:
    there = [row["call_id"] for row in rows(export(desk, query))]
    assert there == listed(desk, query)
    assert there


def test_excel_reads_a_csv_as_utf_8_and_runs_no_formula(desk: CallDesk) -> None:
    data = export(desk, "content=yes")
    assert data.startswith(b"\xef\xbb\xbflocation_id,")
    found = rows(data)
    assert {row["summary"] for row in found} >= {"'=1+1", "Grüße, 名前\r\n", 'a "quoted", one', ""}
    assert {row["location_name"] for row in found} == {"Harbor Dental", "'=cmd|'/c calc'!A0"}
    assert {row["from_number"][:5] for row in found} == {"+1555"}


def test_every_format_says_the_same(desk: CallDesk) -> None:
    by_csv = rows(export(desk, "content=yes"))
    lines = export(desk, "content=yes&format=jsonl").decode().splitlines()
    by_json = [json.loads(line) for line in lines]
    table = parquet.read_table(io.BytesIO(export(desk, "content=yes&format=parquet")))
    assert [one["call_id"] for one in by_json] == [one["call_id"] for one in by_csv]
    assert table.column("call_id").to_pylist() == [one["call_id"] for one in by_csv]
    assert [one["duration_seconds"] for one in by_json] == [
        float(one["duration_seconds"]) for one in by_csv
    ]
    assert by_json[0]["extracted_data"] == {"name": "Pat", "n": 29}
    assert by_json[0]["action_types"] == []
    assert by_json[0]["started_at"] == by_csv[0]["started_at"]


def test_content_is_exported_to_those_who_may_see_it_and_recorded(desk: CallDesk) -> None:
    before = len(desk.openings())
    assert not CONTENT & rows(export(desk, ""))[0].keys()
    assert not CONTENT & rows(export(desk, "content=yes", analyst=True))[0].keys()
    assert len(desk.openings()) == before
    assert rows(export(desk, "content=yes", analyst=True, granted=True))[0].keys() >= CONTENT
    assert desk.openings()[before:] == [("analyst", "export", 27, None)]


def test_an_unknown_format_is_refused(desk: CallDesk) -> None:
    with desk.visitor() as visitor:
        assert visitor.get("/calls/export?format=xlsx").status_code == 404


@pytest.mark.parametrize("leaves", [True, False])
def test_a_client_that_leaves_at_once_or_stops_reading_frees_its_slot(
    monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    monkeypatch.setattr(call_export, "STALLED", 0.01)
    slots = threading.BoundedSemaphore(1)
    monkeypatch.setattr(call_export, "_slots", slots)
    closed = []

    def pieces() -> Generator[bytes, None, None]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    async def receive() -> Message:
        return {"type": "http.disconnect"} if leaves else await asyncio.Future()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Future()

    slots.acquire()
    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    asyncio.run(call_export._Export(pieces(), Format.CSV)(scope, receive, send))
    # One that left was sent nothing: its rows were never asked for.
    assert closed == ([] if leaves else [True])
    assert slots.acquire(blocking=False)
