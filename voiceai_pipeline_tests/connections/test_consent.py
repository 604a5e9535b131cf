"""Starting and ending a connection: the state that identifies a consent, every callback that cannot
finish one, an agency's location, and disconnecting.
"""

from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
import requests
import sqlalchemy as sa

from voiceai_pipeline.connections import history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent import Begun, Consent
from voiceai_pipeline.connections.consent_errors import (
    CONNECTED,
    ChooseLocationError,
    ConsentError,
    FinishedError,
)
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.queries import UnknownUserError
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.sandbox.cast import DEMO_LOCATIONS, make_location
from voiceai_pipeline.sandbox.demo import authorize
from voiceai_pipeline.sandbox.server import RunningSandbox, running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import DEMO, Connector
from voiceai_pipeline_tests.support.highlevel import open_client

HARBOR = UUID(DEMO["Harbor Dental"].id)
AGENCY = UUID(DEMO["Northwind Agency"].id)


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def allowed(browser: requests.Session, started: Begun, name: str) -> tuple[Secret, Secret]:
    """The state and the code that HighLevel sends the browser back with."""
    query = parse_qs(urlsplit(authorize(browser, started.url, DEMO[name].installs_on)).query)
    return Secret(query["state"][0]), Secret(query["code"][0])


def exchanges(sandbox: RunningSandbox) -> int:
    return sum(r.grant_type == "authorization_code" for r in sandbox.requests)


def table(engine: sa.Engine, name: str) -> list[dict[str, object]]:
    with engine.connect() as db:
        return [dict(row) for row in db.execute(sa.text(f"SELECT * FROM {name}")).mappings()]  # noqa: S608


def events(engine: sa.Engine, user_id: UUID) -> list[TokenEvent | str]:
    with engine.begin() as db:
        return [entry.event for entry in history.of_user(db, user_id)]


# The flow -----------------------------------------------------------------------------------------


def test_a_consent_connects_the_user_whom_its_state_names(
    connect: Connector,
    consent: Consent,
    browser: requests.Session,
    engine: sa.Engine,
    tokens: Tokens,
) -> None:
    connect.add("Harbor Dental", "Pine Realty")
    started = consent.begin(HARBOR)
    assert started.url.partition("?")[0].endswith("/v2/oauth/chooselocation")
    after = consent.finish(*allowed(browser, started, "Harbor Dental"))
    assert after.user.id == HARBOR
    assert (after.state, after.label) == (ConnectionState.CONNECTED, "connected")
    assert (after.location_name, after.location_timezone) == ("Harbor Dental", "America/New_York")
    assert tokens.check(HARBOR).failure is None
    assert consent.outcome(started.state) == "connected"
    assert events(engine, HARBOR) == [TokenEvent.TESTED, TokenEvent.CONNECTED]
    with engine.begin() as db:
        other = connections.one(db, UUID(DEMO["Pine Realty"].id))
    assert other is not None
    assert other.state is ConnectionState.NEVER_CONNECTED


def test_only_scopes_that_write_no_data_are_asked_for(consent: Consent, connect: Connector) -> None:
    connect.add("Harbor Dental")
    (scope,) = parse_qs(urlsplit(consent.begin(HARBOR).url).query)["scope"]
    # oauth.write mints a location's token from an agency's; it changes nothing in HighLevel.
    assert {s for s in scope.split() if not s.endswith(".readonly")} == {"oauth.write"}


def test_the_state_is_stored_as_a_hash_only(
    consent: Consent, connect: Connector, engine: sa.Engine
) -> None:
    connect.add("Harbor Dental")
    started = consent.begin(HARBOR)
    assert started.state.reveal() in started.url
    assert started.state.reveal() not in str(table(engine, "connect_requests"))
    assert started.state.reveal() not in repr(started.state)


@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    [
        ({"state": None}, "has no state"),
        ({"state": Secret("")}, "has no state"),
        ({"state": Secret("invented")}, "is not ours"),
        ({"code": None}, "without a code"),
        ({"code": Secret("")}, "without a code"),
    ],
    ids=["no state", "empty state", "wrong state", "no code", "empty code"],
)
def test_an_incomplete_callback_changes_nothing_and_says_what_to_do(
    spoiled: dict[str, Secret | None],
    sentence: str,
    connect: Connector,
    consent: Consent,
    browser: requests.Session,
    engine: sa.Engine,
    sandbox: RunningSandbox,
) -> None:
    connect("Harbor Dental")
    before, spent = table(engine, "api_keys"), exchanges(sandbox)
    state, code = allowed(browser, consent.begin(HARBOR), "Harbor Dental")
    with pytest.raises(ConsentError, match=sentence) as refused:
        consent.finish(**{"state": state, "code": code, **spoiled})
    assert "Nothing was changed" in str(refused.value)
    assert "start the connection again" in str(refused.value)
    assert table(engine, "api_keys") == before
    assert exchanges(sandbox) == spent
    # Nothing was spent: the right answer still works.
    assert consent.finish(state, code).can_sync


def test_a_refusal_in_the_browser_changes_nothing(
    connect: Connector, consent: Consent, engine: sa.Engine
) -> None:
    connect("Harbor Dental")
    before = table(engine, "api_keys")
    started = consent.begin(HARBOR)
    with pytest.raises(ConsentError, match="refused in the browser"):
        consent.finish(started.state, None, "access_denied")
    assert table(engine, "api_keys") == before


def test_a_state_works_once(
    connect: Connector,
    consent: Consent,
    browser: requests.Session,
    engine: sa.Engine,
    sandbox: RunningSandbox,
) -> None:
    connect.add("Harbor Dental")
    started = consent.begin(HARBOR)
    answer = allowed(browser, started, "Harbor Dental")
    consent.finish(*answer)
    before, spent = table(engine, "api_keys"), exchanges(sandbox)
    with pytest.raises(FinishedError, match="finished already") as again:
        consent.finish(*answer)
    assert (again.value.outcome, again.value.user_id) == (CONNECTED, HARBOR)
    another = allowed(browser, started, "Harbor Dental")
    with pytest.raises(ConsentError, match="finished already"):
        consent.finish(*another)
    assert table(engine, "api_keys") == before
    assert exchanges(sandbox) == spent


def test_a_code_used_twice_leaves_the_connection_as_it_is(
    connect: Connector, consent: Consent, browser: requests.Session, engine: sa.Engine
) -> None:
    connect.add("Harbor Dental")
    _, code = allowed(browser, consent.begin(HARBOR), "Harbor Dental")
    consent.connect(HARBOR, code)
    before = table(engine, "api_keys")
    second = consent.begin(HARBOR)
    with pytest.raises(ConsentError, match="used already, or it is too old") as refused:
        consent.finish(second.state, code)
    assert code.reveal() not in str(refused.value)
    assert table(engine, "api_keys") == before
    assert consent.outcome(second.state) == str(refused.value)


def test_a_consent_has_half_an_hour(
    connect: Connector, consent: Consent, browser: requests.Session, clock: Clock
) -> None:
    connect.add("Harbor Dental")
    started = consent.begin(HARBOR)
    clock.now += timedelta(minutes=29, seconds=59)
    answer = allowed(browser, started, "Harbor Dental")
    clock.now += timedelta(seconds=1)
    with pytest.raises(ConsentError, match="longer than 30 minutes"):
        consent.finish(*answer)


def test_a_state_from_days_ago_is_deleted_and_still_refused(
    connect: Connector, consent: Consent, clock: Clock, engine: sa.Engine
) -> None:
    connect.add("Harbor Dental")
    started = consent.begin(HARBOR)
    clock.now += timedelta(days=2)
    consent.begin(HARBOR)
    assert len(table(engine, "connect_requests")) == 1
    with pytest.raises(ConsentError, match="is not ours"):
        consent.finish(started.state, Secret("code"))


def test_a_consent_started_in_a_browser_is_finished_only_in_that_browser(
    connect: Connector, consent: Consent, browser: requests.Session, sandbox: RunningSandbox
) -> None:
    connect.add("Harbor Dental")
    started = consent.begin(HARBOR, browser_bound=True)
    answer = allowed(browser, started, "Harbor Dental")
    with pytest.raises(ConsentError, match="another browser"):
        consent.finish(*answer)
    assert exchanges(sandbox) == 0
    assert consent.finish(*answer, same_browser=True).can_sync


def test_a_consent_for_an_unknown_user_is_refused(consent: Consent, engine: sa.Engine) -> None:
    with pytest.raises(UnknownUserError):
        consent.begin(uuid4())
    assert table(engine, "connect_requests") == []


def test_missing_scopes_are_listed_by_name_and_nothing_is_asked_with_such_a_token(
    connect: Connector, consent: Consent, sandbox: RunningSandbox, tokens: Tokens
) -> None:
    after = connect("Cedar Vets")
    assert after.label == "needs reconnection: scopes missing"
    assert after.missing_scopes == ("voice-ai-dashboard.readonly",)
    assert "voice-ai-dashboard.readonly" in after.cause
    sandbox.world.clear_requests()
    with pytest.raises(PipelineError):
        tokens.get_valid_token(after.user.id)
    assert sandbox.requests == []


# An agency ----------------------------------------------------------------------------------------


@pytest.fixture
def agency(engine: sa.Engine, vault: TokenVault, clock: Clock) -> Iterator[Connector]:
    """An agency with two locations, connected by a browser."""
    company = next(p for p in DEMO_LOCATIONS if p.id == DEMO["Northwind Agency"].location_id)
    second = make_location(
        "Northwind Vans", 50, "motors", "Europe/Berlin", 3, company="NorthwindAgency"
    )
    assert second.company_id != company.company_id  # numbered: bring it into the same company
    locations = (company, second.__class__(**{**vars(second), "company_id": company.company_id}))
    world = World(clock=clock, locations=locations)
    with running(world, limits=False) as sandbox, open_client(sandbox.url, clock) as client:
        connector = Connector(engine, client, Consent(engine, vault, client, now=clock))
        connector.add("Northwind Agency")
        yield connector
        connector.browser.close()


def test_an_agencys_location_is_chosen_from_the_stored_grant_without_a_second_consent(
    agency: Connector, engine: sa.Engine, vault: TokenVault, clock: Clock
) -> None:
    consent, client = agency.consent, agency.client
    started = consent.begin(AGENCY)
    with pytest.raises(ChooseLocationError) as choice:
        consent.finish(*allowed(agency.browser, started, "Northwind Agency"))
    assert choice.value.user_id == AGENCY
    assert "Northwind Vans" in str(consent.outcome(started.state))
    with engine.begin() as db:
        waiting = connections.one(db, AGENCY)
    assert waiting is not None
    assert waiting.label == "needs reconnection: no location"
    offered = consent.locations(AGENCY)
    assert offered == choice.value.locations
    vans = next(one for one in offered if one.name == "Northwind Vans")
    after = consent.choose_location(AGENCY, vans.location_id)
    assert (after.label, after.location_name) == ("connected", "Northwind Vans")
    assert Tokens(engine, vault, client, now=clock).check(AGENCY).failure is None
    assert events(engine, AGENCY) == [
        TokenEvent.TESTED,
        TokenEvent.MINTED,
        TokenEvent.LOCATION_CHOSEN,
        TokenEvent.CONNECTED,
    ]
    # Another of them later on, as easily.
    other = next(one for one in offered if one != vans)
    assert consent.choose_location(AGENCY, other.location_id).location_id == other.location_id
    assert Tokens(engine, vault, client, now=clock).check(AGENCY).failure is None


def test_a_location_that_is_not_the_agencys_is_refused_with_those_that_are(
    agency: Connector, engine: sa.Engine
) -> None:
    with pytest.raises(ChooseLocationError):
        agency("Northwind Agency")
    before = table(engine, "api_keys")
    with pytest.raises(ChooseLocationError) as choice:
        agency.consent.choose_location(AGENCY, "LocInvented")
    assert len(choice.value.locations) == 2
    assert table(engine, "api_keys") == before


def test_an_expired_grant_needs_a_new_consent(agency: Connector, clock: Clock) -> None:
    with pytest.raises(ChooseLocationError):
        agency("Northwind Agency")
    clock.now += timedelta(days=1)
    with pytest.raises(PipelineError) as old:
        agency.consent.locations(AGENCY)
    assert old.value.failure is FailureClass.NO_LOCATION
    assert "connect" in str(old.value)


def test_a_user_without_an_agency_has_no_locations_to_select(
    connect: Connector, consent: Consent
) -> None:
    connect("Harbor Dental")
    with pytest.raises(PipelineError) as refused:
        consent.choose_location(HARBOR, "LocInvented")
    assert refused.value.failure is FailureClass.NO_CONNECTION
    with pytest.raises(UnknownUserError):
        consent.locations(uuid4())


# A database that drops out ------------------------------------------------------------------------


def test_the_tokens_of_a_code_survive_a_dropped_database_connection(
    connect: Connector, engine: sa.Engine, database: Secret
) -> None:
    dropped = []

    def drop_once(connection: sa.Connection, *statement: object) -> None:
        if not dropped and "INSERT INTO api_keys" in str(statement):
            dropped.append(True)
            victim = connection.connection.dbapi_connection.info.backend_pid
            other = open_engine(database)
            with other.connect() as db:
                db.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": victim})
            other.dispose()

    sa.event.listen(engine, "before_cursor_execute", drop_once)
    assert connect("Harbor Dental").can_sync
    assert dropped


def test_a_reconnection_replaces_the_row_in_one_transaction_and_is_in_the_history(
    connect: Connector, engine: sa.Engine, sandbox: RunningSandbox, tokens: Tokens
) -> None:
    first: Connection = connect("Harbor Dental")
    sandbox.world.revoke(first.location_id or "")
    assert tokens.check(HARBOR).failure is not None
    again = connect("Harbor Dental")
    assert again.can_sync
    assert again.token_version > first.token_version
    assert len(table(engine, "api_keys")) == 1
    assert events(engine, HARBOR)[0] is TokenEvent.CONNECTED
    assert TokenEvent.REFRESH_FAILED in events(engine, HARBOR)
