"""Exports, read back by the tools they are for."""

import csv
import io
import resource
import stat
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from pyarrow import parquet

from voiceai_pipeline.core.days import Window
from voiceai_pipeline.database.engine import UtcDateTime
from voiceai_pipeline.database.mart_tables import MARTS
from voiceai_pipeline.database.tables import call_logs
from voiceai_pipeline.database.views import VIEWS
from voiceai_pipeline.marts import export as exports
from voiceai_pipeline.marts import extracts
from voiceai_pipeline.marts.export import ExportError, Format, Order, export

NEW_YORK = ZoneInfo("America/New_York")
DAY = date(2026, 11, 1)  # 25 hours long there
MIDNIGHT = datetime(2026, 11, 1, 4, tzinfo=UTC)
NEXT_MIDNIGHT = datetime(2026, 11, 2, 5, tzinfo=UTC)
SECRET = "said in private"
CONTENT = {
    "contact_id",
    "from_number",
    "summary",
    "transcript",
    "extracted_data",
    "executed_call_actions",
    "translation",
    "message_id",
}


def add(engine: sa.Engine, *calls: Mapping[str, Any]) -> None:
    """Calls of the day, each with an id of its own."""
    rows = [
        {
            "location_id": "Loc1",
            "call_id": f"call{number}",
            "agent_id": "agent1",
            "started_at": MIDNIGHT + timedelta(minutes=number),
            "duration_seconds": 61.5,
            "is_trial": False,
            "is_agent_deleted": False,
            "contact_id": SECRET,
            "from_number": SECRET,
            "summary": SECRET,
            "transcript": SECRET,
            "extracted_data": {"said": SECRET},
            "executed_call_actions": [{"actionType": "SMS", "text": SECRET}],
            "translation": {"text": SECRET},
            "message_id": SECRET,
            "raw": {"all": SECRET},
            "content_hash": b"h",
            "first_seen_at": MIDNIGHT + timedelta(hours=1, microseconds=5),
            "last_changed_at": MIDNIGHT + timedelta(hours=2),
            "missing_since": None,
            **call,
        }
        for number, call in enumerate(calls)
    ]
    with engine.begin() as db:
        db.execute(sa.insert(call_logs), rows)


def order(**options: Any) -> Order:
    return Order("calls", DAY, DAY, NEW_YORK, **options)


def as_csv(engine: sa.Engine, wanted: Order) -> list[dict[str, str]]:
    file = io.BytesIO()
    count = export(engine, wanted, Format.CSV, file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode(), newline="")))
    assert count == len(rows)
    return rows


def test_a_day_is_one_of_the_zone_and_holds_what_metrics_count(engine: sa.Engine) -> None:
    add(
        engine,
        {"call_id": "before", "started_at": MIDNIGHT - timedelta(milliseconds=1)},
        {"call_id": "first", "started_at": MIDNIGHT},
        {"call_id": "trial", "is_trial": True},
        {"call_id": "unknown", "is_trial": None},
        {"call_id": "gone", "missing_since": NEXT_MIDNIGHT},
        {"call_id": "last", "started_at": NEXT_MIDNIGHT - timedelta(milliseconds=1)},
        {"call_id": "after", "started_at": NEXT_MIDNIGHT},
    )

    rows = as_csv(engine, order())
    every = as_csv(engine, order(trial=True, missing=True))

    assert [row["call_id"] for row in rows] == ["first", "unknown", "last"]
    assert [row["call_id"] for row in every] == ["first", "trial", "unknown", "gone", "last"]
    assert rows[0] == {
        "location_id": "Loc1",
        "location_name": "Loc1",
        "location_timezone": "",
        "call_id": "first",
        "agent_id": "agent1",
        "agent_name": "",
        "started_at": "2026-11-01T04:00:00Z",
        "duration_seconds": "61.5",
        "action_types": '["SMS"]',
        "is_agent_deleted": "false",
        "is_trial": "false",
        "missing_since": "",
        "first_seen_at": "2026-11-01T05:00:00.000005Z",
        "last_changed_at": "2026-11-01T06:00:00Z",
        "outcome": "not_final",
        "caller_turns": "",
        "is_engaged": "",
        "is_goal_reached": "",
        "is_transferred": "",
        "is_data_captured": "",
        "local_day": "",
        "local_hour": "",
        "caller_pseudonym": "",
    }
    assert [row["is_trial"] for row in every] == ["false", "true", "", "false", "false"]
    assert every[3]["missing_since"] == "2026-11-02T05:00:00Z"


def test_what_was_said_is_there_only_when_asked_for(engine: sa.Engine) -> None:
    add(engine, {})

    (plain,) = as_csv(engine, order(trial=True, missing=True))
    (full,) = as_csv(engine, order(content=True))

    assert SECRET not in str(plain)
    assert full.keys() - plain.keys() == CONTENT
    assert {name for name, value in full.items() if SECRET in value} == CONTENT


def test_an_export_of_calls_has_every_column_of_the_view_but_its_users() -> None:
    by_name = {view.name: {*view.columns} for view in VIEWS}
    window = Window.of_day(DAY, NEW_YORK)
    plain, full = (extracts.calls(window, None, content=content) for content in (False, True))
    assert {one.name for one in plain.fields} == by_name["all_calls"] - {"user_id", "user_name"}
    content = by_name["call_contents"] - {"raw"}
    assert {one.name for one in full.fields} == {one.name for one in plain.fields} | content
    assert all(one.comment for one in full.fields)


def test_only_the_asked_locations_are_in_it(engine: sa.Engine) -> None:
    add(engine, {}, {"location_id": "Loc2"}, {"location_id": "Loc3"})

    rows = as_csv(engine, order(location_ids={"Loc1", "Loc3"}))

    assert [row["location_id"] for row in rows] == ["Loc1", "Loc3"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("=HYPERLINK(0)", "'=HYPERLINK(0)"),
        ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("+15550101234", "+15550101234"),
        ("1=1", "1=1"),
        ('a "quoted", word\nand a line', 'a "quoted", word\nand a line'),
        ("", ""),
    ],
)
def test_a_cell_that_a_spreadsheet_would_run_is_shown_instead(
    engine: sa.Engine, said: str, shown: str
) -> None:
    add(engine, {"transcript": said, "from_number": said})

    (row,) = as_csv(engine, order(content=True))

    assert (row["transcript"], row["from_number"]) == (shown, shown)


def test_parquet_has_types_and_comments_and_every_value_as_it_is(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(engine, {"transcript": "=1", "summary": ""}, {"summary": None}, {"duration_seconds": None})
    # A batch is all that is ever in memory.
    monkeypatch.setattr(exports, "_AT_ONCE_WITH_CONTENT", 2)
    path = tmp_path / "calls.parquet"

    assert export(engine, order(content=True), Format.PARQUET, path) == 3

    file = parquet.ParquetFile(path)
    assert file.num_row_groups == 2
    assert [str(file.schema_arrow.field(name).type) for name in ("started_at", "is_trial")] == [
        "timestamp[us, tz=UTC]",
        "bool",
    ]
    comment = file.schema_arrow.field("from_number").metadata[b"comment"]
    assert comment == b"The caller's telephone number."
    rows = file.read().to_pylist()
    assert [(row["transcript"], row["summary"]) for row in rows] == [
        ("=1", ""),
        (SECRET, None),
        (SECRET, SECRET),
    ]
    assert [row["duration_seconds"] for row in rows] == [61.5, 61.5, None]
    assert rows[0]["first_seen_at"] == MIDNIGHT + timedelta(hours=1, microseconds=5)
    assert {row["call_id"] for row in rows} == {"call0", "call1", "call2"}


@pytest.mark.parametrize("format_", Format)
def test_a_day_without_calls_is_a_file_with_the_columns_that_its_format_has(
    engine: sa.Engine, tmp_path: Path, format_: Format
) -> None:
    path = tmp_path / "empty"

    assert export(engine, order(), format_, path) == 0

    if format_ is Format.CSV:
        assert path.read_text().startswith("location_id,location_name,")
    elif format_ is Format.JSONL:
        assert path.read_bytes() == b""
    else:
        assert parquet.read_table(path).column_names[:2] == ["location_id", "location_name"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_with_content_is_its_owners_alone(engine: sa.Engine, tmp_path: Path) -> None:
    add(engine, {})
    private, shared = tmp_path / "private.csv", tmp_path / "shared.csv"

    export(engine, order(content=True), Format.CSV, private)
    export(engine, order(), Format.CSV, shared)

    assert mode(private) == 0o600
    shared.with_name("usual").touch()
    assert mode(shared) == mode(shared.with_name("usual"))


def test_a_file_that_is_there_stays_as_it_is(engine: sa.Engine, tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text("mine")

    with pytest.raises(ExportError, match=r"calls\.csv already exists and was not changed\."):
        export(engine, order(), Format.CSV, path)

    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_came_meanwhile_stays_too(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calls.csv"
    exists = Path.exists

    def exists_then_made(self: Path) -> bool:
        was_there = exists(self)
        if self == path:
            path.write_text("theirs")
        return was_there

    monkeypatch.setattr(Path, "exists", exists_then_made)
    with pytest.raises(ExportError, match="already exists"):
        export(engine, order(), Format.CSV, path)

    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_that_breaks_off_leaves_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    add(engine, {})
    with engine.begin() as db:
        db.exec_driver_sql("DROP TABLE voiceai_agents CASCADE")

    with pytest.raises(sa.exc.ProgrammingError):
        export(engine, order(), Format.CSV, tmp_path / "calls.csv")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_a_sentence(engine: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"calls\.csv could not be written: No such file or directory\. No part"
    ):
        export(engine, order(), Format.CSV, tmp_path / "nowhere" / "calls.csv")


def test_a_file_that_cannot_be_finished_is_a_sentence_and_leaves_nothing(
    engine: sa.Engine, tmp_path: Path
) -> None:
    add(engine, {"transcript": "long " * 4000})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ExportError, match=r"could not be written: File too large\. No part"):
            export(engine, order(content=True), Format.CSV, tmp_path / "calls.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert list(tmp_path.iterdir()) == []


def test_without_its_package_parquet_is_a_sentence_and_csv_works(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ExportError, match="Install it with: make parquet"):
        export(engine, order(), Format.PARQUET, tmp_path / "calls.parquet")
    assert list(tmp_path.iterdir()) == []
    assert export(engine, order(), Format.CSV, tmp_path / "calls.csv") == 0


# Marts -------------------------------------------------------------------------------------------

EXAMPLES: dict[type, Any] = {
    sa.Text: "text",
    sa.Integer: 7,
    sa.SmallInteger: 7,
    sa.Double: 0.5,
    sa.Numeric: Decimal("61.125"),
    sa.Boolean: True,
    UtcDateTime: MIDNIGHT,
}


@pytest.mark.parametrize("mart", MARTS, ids=lambda mart: str(mart.name))
def test_a_mart_is_exported_whole_by_its_own_days(
    engine: sa.Engine, tmp_path: Path, mart: sa.Table
) -> None:
    values = {c.name: EXAMPLES[type(c.type)] for c in mart.columns if c.name != "day"}
    days = [DAY - timedelta(days=1), DAY, DAY + timedelta(days=1)]
    with engine.begin() as db:
        db.execute(sa.insert(mart), [values | {"day": day} for day in days])
        db.execute(sa.insert(mart), [values | {"day": DAY, "location_id": "Loc2"}])
    wanted = Order(mart.name, DAY, DAY + timedelta(days=1), NEW_YORK, {"text"})
    path = tmp_path / "mart.parquet"

    rows = as_csv(engine, wanted)
    export(engine, wanted, Format.PARQUET, path)

    assert [row["day"] for row in rows] == ["2026-11-01", "2026-11-02"]
    assert list(rows[0]) == [column.name for column in mart.columns]
    assert parquet.read_table(path).to_pylist()[0] == values | {"day": DAY}
