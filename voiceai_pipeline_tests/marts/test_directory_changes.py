"""Numbers follow what the directory says, and keep what it said (REQUIREMENTS M9, M10)."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from voiceai_pipeline.calls.dimensions import Directory, store_agents
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.call import Agent
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.marts.location_reader import read_locations
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.mart_calls import DAY, NIGHTS, WEEKDAYS, Book
from voiceai_pipeline_tests.support.mart_desk import LOCATION, D, Desk

NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)  # a Tuesday


def store(engine: sa.Engine, at: datetime, **settings: object) -> None:
    """What HighLevel says of the agent at that time."""
    agent = Agent("agent-days", "Days", {"agentName": "Days", **settings})
    with engine.begin() as db:
        store_agents(db, LOCATION, [agent], at)


def test_a_day_keeps_the_settings_of_its_time(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D - DAY, D + DAY)
    changed = NOON + timedelta(hours=2)
    store(desk.engine, NOON - DAY, maxCallDuration=60, agentWorkingHours=NIGHTS)
    book.call(LOCATION, NOON - timedelta(hours=1), duration_seconds=60)
    book.call(LOCATION, NOON + timedelta(hours=3), duration_seconds=60)
    desk.build(D)
    before = desk.row()
    assert (before["calls_at_max_duration"], before["after_hours_calls"]) == (2, 2)

    store(desk.engine, changed, maxCallDuration=600, agentWorkingHours=WEEKDAYS)
    store(desk.engine, changed + DAY, maxCallDuration=600, agentWorkingHours=WEEKDAYS)
    with desk.engine.connect() as db:
        assert (
            db.execute(
                sa.text("SELECT count(*) FROM agent_settings WHERE agent_id = 'agent-days'")
            ).scalar_one()
            == 2
        )
    desk.build(D)
    row = desk.row()
    assert (row["max_duration_known_calls"], row["calls_at_max_duration"]) == (2, 1)
    assert (row["hours_known_calls"], row["after_hours_calls"]) == (2, 1)


def test_without_a_history_todays_settings_are_all_that_is_known(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.read(LOCATION, D, D)
    book.call(LOCATION, NOON, duration_seconds=600)
    desk.build(D)
    assert desk.row()["calls_at_max_duration"] == 1


def test_a_new_connection_brings_its_locations_zone_and_agents(
    engine: sa.Engine, vault: TokenVault, client: HighLevelClient, clock: Clock
) -> None:
    directory = Directory(engine, Tokens(engine, vault, client, now=clock), client, now=clock)
    consent = Consent(engine, vault, client, connected=directory.read_new, now=clock)
    connector = Connector(engine, client, consent)
    connection = connector("Harbor Dental")
    here, zone = str(connection.location_id), connection.location_timezone
    with engine.connect() as db:
        (location,) = read_locations(db, [here], {}, ZoneInfo("UTC"))
    assert (location.zone.key, location.is_zone_assumed) == (zone, False)
    assert location.name == connection.location_name
    assert {facts.name_on(clock.now + DAY) for facts in location.agents.values()} >= {"Front desk"}

    directory.sync_locations()
    with engine.begin() as db:  # it has moved since the directory was read
        db.execute(sa.text("UPDATE locations SET timezone = 'Asia/Tokyo', name = 'Before'"))
    consent.connect(connection.user.id, connector.code(DEMO["Harbor Dental"]))
    connector.browser.close()
    with engine.connect() as db:
        (location,) = read_locations(db, [here], {}, ZoneInfo("UTC"))
    assert (location.zone.key, location.name) == (zone, connection.location_name)


def test_a_zone_that_only_a_connection_knows_is_used_and_makes_marts_stale(
    book: Book, desk: Desk
) -> None:
    book.location(LOCATION, None)
    book.read(LOCATION, D - DAY, D + DAY)
    book.call(LOCATION, datetime(2026, 11, 11, 2, tzinfo=UTC))
    desk.settle()
    assert desk.row(D + DAY)["calls"] == 1
    with desk.engine.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, service, location_id, location_timezone) "
                "SELECT gen_random_uuid(), id, 'highlevel', :here, 'America/New_York' FROM users"
            ),
            {"here": LOCATION},
        )
    desk.settle()
    assert (desk.row(D)["calls"], desk.row(D)["timezone"]) == (1, "America/New_York")


def test_calls_of_a_location_without_a_user_stay_in_the_views(book: Book, desk: Desk) -> None:
    book.location(LOCATION, "UTC")
    book.call(LOCATION, NOON)
    with desk.engine.connect() as db:
        for view in ("calls", "all_calls"):
            rows = db.execute(sa.text(f"SELECT * FROM voiceai.{view}")).all()  # noqa: S608
            assert [(row.user_id, row.location_id) for row in rows] == [(None, LOCATION)]
