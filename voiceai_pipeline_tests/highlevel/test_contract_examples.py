"""The contract's example bodies, over HTTP, through the client and into the tables."""

import datetime as dt
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.calls.call_store import store
from voiceai_pipeline.calls.dimensions import store_agents
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.tables import agents, call_logs
from voiceai_pipeline.database.whole_call import WHOLE_ITEM
from voiceai_pipeline.highlevel.calls import as_sent, call_of, call_or_set_aside, head_of
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline_tests.support.call_lists import WholeRead, read_whole
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.contract import example_body
from voiceai_pipeline_tests.support.highlevel import open_client
from voiceai_pipeline_tests.support.keys import KEYS
from voiceai_pipeline_tests.support.scripted_server import Asked, Reply, Scripted

TOKEN, LOCATION, COMPANY = Secret("EXAMPLE"), "LocExample0000000001", "CoExample00000000001"
WINDOW = Window(
    dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
    dt.datetime(2026, 11, 23, tzinfo=dt.UTC),
)
BOOKED = "65f0c0ffee0000000000a001"
TRIAL = "65f0c0ffee0000000000a002"
EMPTY = "65f0c0ffee0000000000a003"


def autocommit(
    name: str, clock: Clock, ask: Callable[[HighLevelClient], Any], api_version: str = "dated"
) -> tuple[Any, Asked]:
    """What the client makes of an example, and the request it was the answer to."""
    with (
        Scripted(Reply(example_body(name))) as server,
        open_client(server.url, clock, api_version) as client,
    ):
        result = ask(client)
        return result, server.asked[0]


def read(name: str, clock: Clock) -> WholeRead:
    found: WholeRead
    found, _ = autocommit(
        name,
        clock,
        lambda client: read_whole(
            lambda start, end, page: client.call_logs_page(TOKEN, LOCATION, start, end, page),
            WINDOW,
        ),
    )
    return found


def stored(engine: sa.Engine, found: WholeRead) -> dict[str, dict[str, Any]]:
    with engine.begin() as db:
        vault = TokenVault(KEYS)
        intake = Intake(engine, LOCATION, [WINDOW.start], call_of, vault.call_fingerprint, NOON)
        with closing(intake):
            intake.take(found.listed)
            intake.finish(WINDOW.end, found.set_aside)
            store(db, [intake], NOON)
        rows = db.execute(sa.select(call_logs, WHOLE_ITEM.label("whole"))).mappings().all()
    found_rows = {row["call_id"]: dict(row) for row in rows}
    return {call_id: row | {"raw": row.pop("whole")} for call_id, row in found_rows.items()}


def test_the_page_of_calls_arrives_in_the_table(engine: sa.Engine, clock: Clock) -> None:
    rows = stored(engine, read("call_logs_page.json", clock))
    assert set(rows) == {BOOKED, TRIAL, EMPTY}
    booked = rows[BOOKED]
    actions = booked.pop("executed_call_actions")
    raw, content_hash = booked.pop("raw"), booked.pop("content_hash")
    assert len(booked.pop("fingerprint")) == 16
    assert booked == {
        "location_id": LOCATION,
        "call_id": BOOKED,
        "agent_id": "65f0c0ffee0000000000b001",
        "contact_id": "ConExample0000000001",
        "from_number": "+15550100001",
        "started_at": dt.datetime(2026, 11, 22, 17, 3, 11, 482_000, dt.UTC),
        "duration_seconds": 184.0,
        "is_trial": False,
        "is_agent_deleted": False,
        "summary": "Caller asked about an order and booked a visit.",
        "transcript": "bot:Hello, how can I help?\nhuman:I'd like to book a visit.\nbot:Sure.",
        "extracted_data": {"customerName": "Pat Example", "email": "pat@example.test"},
        "translation": {"enabled": False, "language": "es"},
        "message_id": "MsgExample0000000001",
        "first_seen_at": NOON,
        "last_changed_at": NOON,
        "missing_since": None,
    }
    assert [action["actionType"] for action in actions] == ["APPOINTMENT_BOOKING", "CUSTOM_ACTION"]
    assert actions == raw["executedCallActions"]
    assert len(content_hash) == 32


def test_of_the_contracts_calls_only_what_is_empty_is_kept_beside_the_columns(
    engine: sa.Engine, clock: Clock
) -> None:
    stored(engine, read("call_logs_page.json", clock))
    with engine.begin() as db:
        kept = dict(db.execute(sa.select(call_logs.c.call_id, call_logs.c.raw)).all())
    assert kept[BOOKED] is None
    empty = ("", [], None)
    assert all(value in empty for rest in kept.values() for value in (rest or {}).values())


def test_no_secret_of_a_third_party_is_stored(engine: sa.Engine, clock: Clock) -> None:
    assert "REDACT-ME" in json.dumps(example_body("call_logs_page.json"))
    with engine.begin() as db:
        stored(engine, read("call_logs_page.json", clock))
        everything = db.execute(sa.text("SELECT c::text FROM call_logs c")).scalars().all()
    assert len(everything) == 3
    assert "REDACT-ME" not in "".join(everything)
    assert "x-api-key" in "".join(everything), "header names stay"


def test_a_trial_call_has_no_number_and_a_deleted_agents_call_no_text(
    engine: sa.Engine, clock: Clock
) -> None:
    rows = stored(engine, read("call_logs_page.json", clock))
    trial, empty = rows[TRIAL], rows[EMPTY]
    assert (trial["is_trial"], trial["from_number"], trial["contact_id"]) == (True, None, None)
    assert trial["executed_call_actions"] == []
    assert trial["extracted_data"] is None
    assert trial["message_id"] is None
    assert (empty["is_agent_deleted"], empty["duration_seconds"]) == (True, 0.0)
    assert (empty["summary"], empty["transcript"]) == (None, None)
    assert empty["raw"]["summary"] == ""


def test_the_wild_variant_arrives_in_the_table(engine: sa.Engine, clock: Clock) -> None:
    found = read("call_logs_page.wild_variant.json", clock)
    assert found.pages == 1
    row = stored(engine, found)[BOOKED]
    raw = example_body("call_logs_page.wild_variant.json")["callLogs"][0]
    assert row["raw"] == raw
    assert row["translation"] is None
    assert row["extracted_data"] is None
    assert row["executed_call_actions"][0]["_id"] == "65f0c0ffee0000000000c001"


def test_an_empty_page_is_a_complete_read(clock: Clock) -> None:
    assert read("call_logs_empty.json", clock) == WholeRead([], [], 1)


def test_a_call_alone_and_from_the_webhook_is_the_same_call(engine: sa.Engine) -> None:
    single, webhook = (
        call_or_set_aside(head_of(as_sent(item)))
        for item in map(example_body, ("call_log_single.json", "webhook_VoiceAiCallEnd.json"))
    )
    assert isinstance(single, ListedCall)
    assert isinstance(webhook, ListedCall)
    row = stored(engine, WholeRead([single], [], 1))[BOOKED]
    again = stored(engine, WholeRead([webhook], [], 1))
    assert set(again) == {BOOKED}
    for column in ("started_at", "agent_id", "from_number", "summary", "transcript", "message_id"):
        assert again[BOOKED][column] == row[column]
    assert again[BOOKED]["is_agent_deleted"] is None


def test_the_agents_arrive_in_the_table(engine: sa.Engine, clock: Clock) -> None:
    listed, asked = autocommit("agents_page.json", clock, lambda c: list(c.agents(TOKEN, LOCATION)))
    assert asked.path == "/voice-ai/agents"
    with engine.begin() as db:
        store_agents(db, LOCATION, listed, NOON)
        (row,) = db.execute(sa.select(agents)).mappings()
    assert (row["name"], row["timezone"]) == ("Front desk", "America/New_York")
    assert row["raw"] == example_body("agents_page.json")["agents"][0]


def test_the_location_has_its_name_and_zone(clock: Clock) -> None:
    found, asked = autocommit("location.json", clock, lambda c: c.location(TOKEN, LOCATION))
    assert asked.path == f"/locations/{LOCATION}"
    assert (found.location_id, found.name) == (LOCATION, "Example Dental")
    assert (found.timezone, found.company_id) == ("America/New_York", COMPANY)


@pytest.mark.parametrize(
    ("name", "api_version"),
    [("installed_locations.pre_v3.json", "dated"), ("installed_locations.v3.json", "v3")],
)
def test_the_installed_locations_are_listed(name: str, api_version: str, clock: Clock) -> None:
    found, _ = autocommit(name, clock, lambda c: c.installed_locations(TOKEN, COMPANY), api_version)
    assert [(one.location_id, one.name) for one in found] == [(LOCATION, "Example Dental")]


@pytest.mark.parametrize("api_version", ["dated", "v3"])
@pytest.mark.parametrize(
    ("name", "user_type", "location_id", "lifetime"),
    [
        ("oauth_token_location.pre_v3.json", "Location", LOCATION, 86399),
        ("oauth_token_location.v3.json", "Location", LOCATION, 86399),
        ("oauth_token_company.pre_v3.json", "Company", None, 86399),
        ("oauth_location_token.pre_v3.json", "Location", LOCATION, 86400),
    ],
)
def test_a_grant_is_read_in_either_dialect_whatever_is_configured(
    name: str,
    user_type: str,
    location_id: str | None,
    lifetime: int,
    api_version: str,
    clock: Clock,
) -> None:
    body = example_body(name)
    grant, _ = autocommit(
        name, clock, lambda c: c.refresh(Secret("EXAMPLE"), user_type), api_version
    )
    access = body.get("access_token") or body["accessToken"]
    refresh = body.get("refresh_token") or body["refreshToken"]
    assert (grant.access_token, grant.refresh_token) == (Secret(access), Secret(refresh))
    assert (grant.user_type, grant.location_id, grant.company_id) == (
        user_type, location_id, COMPANY,
    )  # fmt: skip
    assert (grant.expires_in, grant.scope) == (lifetime, body["scope"])
