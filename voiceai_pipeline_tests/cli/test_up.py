"""``voiceai-pipeline up`` as a real process, with a home and ports of its own: what it starts."""

import signal
from datetime import date
from pathlib import Path

import pytest
import requests

from voiceai_pipeline.cli.up import PROJECT, dagster_environment
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_SECRET
from voiceai_pipeline.sandbox.server import running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.keys import KEYS
from voiceai_pipeline_tests.support.processes import block_signals
from voiceai_pipeline_tests.support.up import (
    Up,
    ended,
    own_servers,
    partition_stats,
)

pytestmark = pytest.mark.acceptance

SECRETS = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", SANDBOX_CLIENT_SECRET)


@pytest.fixture(scope="module")
def demo(running_product: Up) -> Up:
    return running_product


# The demo ----------------------------------------------------------------------------------------


def test_it_prints_each_step_and_then_the_addresses(demo: Up) -> None:
    said = [line[9:] for line in demo.output.splitlines()]

    assert said == [
        "Database: starting",
        "Database: creating the tables",
        "Sandbox: starting a local HighLevel, because HIGHLEVEL_CLIENT_ID is not set",
        "Sandbox: connecting 11 demo users through its OAuth pages",
        "Pages: starting",
        "Dagster: starting its UI",
        f"Pages: {demo.page}",
        "Dagster: requesting a backfill of 7 days",
        "Dagster: starting the daemon",
        "",
        f"Open     {demo.page}  (Dagster's UI: {demo.url})",
        f"Sandbox  {demo.sandbox}  (break, heal, revoke, pause there)",
        "Ctrl-C stops everything.",
        "",
    ]


def test_the_demo_users_were_connected_by_a_real_code_exchange(demo: Up) -> None:
    asked = requests.get(f"{demo.sandbox}/sandbox/requests", timeout=60).json()
    grants = [one["grant_type"] for one in asked if one["path"] == "/oauth/token"]

    assert grants.count("authorization_code") == 11
    states = dict(demo.ask("SELECT connection_state, count(*) FROM api_keys GROUP BY 1"))
    assert states["connected"] >= 8


def test_the_last_seven_days_arrive_and_the_bad_day_is_red(demo: Up) -> None:
    stats = partition_stats(demo.url)
    assert (stats["numMaterialized"], stats["numFailed"], stats["numPartitions"]) == (55, 1, 56)
    assert demo.ask("SELECT count(*) > 0 FROM call_logs") == [(True,)]


def test_the_seven_weeks_before_follow_behind_them(demo: Up, week: list[date]) -> None:
    begun = "SELECT min(started_at) FROM sync_ledger WHERE day {} '{}'"
    (((earlier,),), ((recent,),)) = (demo.ask(begun.format(sign, week[0])) for sign in ("<", ">="))
    assert earlier > recent


# External servers --------------------------------------------------------------------------------


def test_with_external_servers_it_starts_neither_sandbox_nor_database_and_stops_under_nohup(
    tmp_path: Path, postgres: EmbeddedPostgres, empty_database: Secret
) -> None:
    postgres.create_database("up_dagster")
    ours = empty_database.reveal().replace("+psycopg", "")
    dagsters = postgres.url("up_dagster").replace("+psycopg", "")
    with running(World(), limits=False) as highlevel:
        env = own_servers(ours, dagsters, highlevel.url)
        with ended(Up(tmp_path / "home", env=env, before=block_signals)) as installation:
            installation.start()
            said = installation.output
            connect(Settings.load(env), "Harbor Dental")
            stats = partition_stats(installation.url)
            assert installation.interrupt(signal.SIGTERM) == 0
            assert installation.output.endswith("All data are kept; start again with: make up\n")
            assert not (installation.home / "postgres").exists()
            assert not (installation.home / "token.key").exists()
            assert not (installation.home / "logs" / "sandbox.log").exists()
    postgres.drop_database("up_dagster")

    assert "Sandbox" not in said
    assert "Database: connecting" in said
    assert "Database: creating the tables" in said
    assert stats["numPartitions"] > 300


def connect(own: Settings, name: str) -> None:
    """Connect a user while it runs."""
    assert own.database_url is not None
    engine = open_engine(own.database_url)
    with HighLevelClient(own.highlevel) as client:
        connector = Connector(engine, client, Consent(engine, TokenVault(KEYS), client))
        connector(name)
        connector.browser.close()
    engine.dispose()


@pytest.fixture
def settings(tmp_path: Path, postgres: EmbeddedPostgres) -> Settings:
    """An installation whose databases are on a server that runs anyway."""
    url = postgres.url("postgres")
    names = ("VOICEAI_DATABASE_URL", "DAGSTER_POSTGRES_URL")
    return Settings.load({"VOICEAI_HOME": str(tmp_path), **dict.fromkeys(names, url)})


def test_a_dagster_home_that_is_set_is_respected(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(own))
    with pytest.raises(SettingsError, match=r"has no dagster\.yaml"), dagster_environment(settings):
        pass
    (own / "dagster.yaml").write_text("{}")
    with dagster_environment(settings) as env:
        assert env["DAGSTER_HOME"] == str(own)
    assert (own / "dagster.yaml").read_text() == "{}"


def test_without_one_it_is_made_in_the_home_and_follows_the_program(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for _ in range(2):
        with dagster_environment(settings) as env:
            file = Path(env["DAGSTER_HOME"]) / "dagster.yaml"
            assert file == settings.home / "dagster" / "dagster.yaml"
            assert file.read_bytes() == (PROJECT / "dagster.yaml").read_bytes()
            assert file.parent.stat().st_mode & 0o777 == 0o700
        file.parent.chmod(0o755)
        file.write_text("# of an older release")
