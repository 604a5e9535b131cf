"""``voiceai-pipeline up`` as a real process: its own home, real ports, real kills.

The tests of the demo are ordered: each continues where the one before it stopped.
"""

import functools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import requests

from voiceai_pipeline.cli.up import PROJECT, dagster_environment
from voiceai_pipeline.connections.consent import Consent
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database.embedded import EmbeddedPostgres, is_running
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_SECRET
from voiceai_pipeline.sandbox.server import running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web.dagster_client import ENDED, Dagster
from voiceai_pipeline_tests.support.demo_users import Connector
from voiceai_pipeline_tests.support.keys import KEYS
from voiceai_pipeline_tests.support.processes import block_signals, is_alive, wait_until
from voiceai_pipeline_tests.support.today import A_MODULE, today_for
from voiceai_pipeline_tests.support.up import (
    Up,
    answers,
    ended,
    own_servers,
    partition_stats,
    port_in_use,
    taken,
)

SECRETS = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", SANDBOX_CLIENT_SECRET)


ELSEWHERE = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "PGSERVICE": "nowhere",
    "PGTZ": "America/New_York",
    "PGOPTIONS": "-c search_path=nowhere",
}
"""What a shell may say for other programs: no request to this machine goes there (S15)."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    today_for(A_MODULE)
    with ended(Up(tmp_path_factory.mktemp("up") / "home", env=ELSEWHERE)) as demo:
        demo.start()
        yield demo


# The demo, in order ------------------------------------------------------------------------------


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
    wait_until(lambda: partition_stats(demo.url)["numMaterialized"] >= 6)
    wait_until(lambda: partition_stats(demo.url)["numFailed"] == 1)

    assert partition_stats(demo.url)["numPartitions"] == 56
    assert demo.ask("SELECT count(*) > 0 FROM call_logs") == [(True,)]


def test_sync_now_on_the_page_is_a_dagster_run_for_that_user_alone(demo: Up) -> None:
    harbor = "00000000-0000-4000-8000-000000000001"
    with requests.Session() as browser:
        token = re.search(r'name="form_token" value="([^"]+)"', browser.get(demo.page).text)
        assert token is not None
        pressed = browser.post(
            f"{demo.page}/users/{harbor}/sync", data={"form_token": token[1]}, timeout=60
        )
    link = re.search(rf"{demo.url}/runs/([0-9a-f-]{{36}})", pressed.text)
    assert link is not None, pressed.text

    dagster = Dagster(demo.url)

    def run() -> str:
        found = dagster.run(link[1])
        assert found is not None
        return found.status

    wait_until(lambda: run() in ENDED)
    assert run() == "SUCCESS"
    ledger = demo.ask("SELECT run_id, user_id::text FROM sync_ledger")
    assert [user for run_id, user in ledger if run_id == link[1]] == [harbor] * 4
    assert dagster.run(str(UUID(int=0))) is None


def test_the_seven_weeks_before_follow_behind_them(demo: Up) -> None:
    wait_until(lambda: partition_stats(demo.url)["numMaterialized"] == 55)

    begun = "SELECT min(started_at) FROM sync_ledger WHERE day {} current_date - 6"
    (((earlier,),), ((recent,),)) = (demo.ask(begun.format(sign)) for sign in ("<", ">="))
    assert earlier > recent


def test_a_second_instance_is_refused_and_the_first_goes_on(demo: Up) -> None:
    assert demo.process is not None

    second = demo.try_to_start()

    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr == (
        f"Error: It is already running at {demo.page} (process {demo.process.pid}). Use that "
        "instance, or stop it with Ctrl-C first.\n"
    )
    assert requests.get(f"{demo.url}/server_info", timeout=60).ok


def test_a_killed_daemon_page_sandbox_or_dagster_ui_is_restarted(demo: Up) -> None:
    words = {
        "daemon": "dagster._daemon",
        "page": "voiceai_pipeline.web",
        "sandbox": "voiceai_pipeline.sandbox",
        "webserver": "voiceai_pipeline.defs.dagster_ui",
    }
    for name, word in words.items():
        killed = demo.child(word)
        killed.kill()
        wait_until(functools.partial(demo.has_another_child, word, than=killed))
        assert f"The {name} stopped (killed by SIGKILL); starting it again." in demo.output
    wait_until(lambda: answers(f"{demo.sandbox}/sandbox/state"))
    wait_until(lambda: answers(f"{demo.page}/health"))
    wait_until(lambda: answers(f"{demo.url}/server_info"))


def test_a_killed_database_is_restarted_automatically(demo: Up) -> None:
    calls = demo.ask("SELECT count(*) FROM call_logs")
    postmaster = int((demo.home / "postgres/data/postmaster.pid").read_text().split()[0])

    os.kill(postmaster, signal.SIGKILL)
    wait_until(lambda: not is_alive(postmaster))

    wait_until(lambda: is_running(demo.home))
    assert "The database stopped; starting it again." in demo.output
    assert demo.ask("SELECT count(*) FROM call_logs") == calls


def test_ctrl_c_stops_everything_it_started(demo: Up) -> None:
    assert demo.interrupt() == 0

    wait_until(demo.everything_has_ended)
    assert demo.output.splitlines()[-1].endswith(
        "Stopped. All data are kept; start again with: make up"
    )
    assert "Traceback" not in demo.output
    assert not answers(demo.page)
    assert not answers(f"{demo.inner}/health")


def test_no_token_code_or_secret_is_in_any_output_or_log(demo: Up) -> None:
    texts = [demo.output, *(log.read_text() for log in (demo.home / "logs").iterdir())]

    assert not [secret for secret in SECRETS for text in texts if secret in text]


def test_a_sandbox_port_in_use_is_one_sentence_and_nothing_is_left_running(demo: Up) -> None:
    with taken(demo.sandbox_port):
        stopped = demo.try_to_start()

    assert stopped.returncode == 1
    assert stopped.stderr == port_in_use(
        demo.sandbox_port, f"VOICEAI_SANDBOX_PORT={demo.sandbox_port + 1} make up"
    )
    wait_until(demo.everything_has_ended)


def test_a_second_start_continues_with_the_same_data(demo: Up) -> None:
    before = demo.ask("SELECT count(*), min(created_at), max(token_version) FROM api_keys")
    calls = demo.ask("SELECT count(*) FROM call_logs")

    # As if a process had been killed in the middle of a run.
    ((cut_off,),) = demo.ask(
        "UPDATE runs SET status = 'STARTED' WHERE id = (SELECT max(id) FROM runs "
        "WHERE status = 'SUCCESS') RETURNING id",
        database="dagster",
    )

    demo.start()

    has_ended = f"SELECT status = 'FAILURE' FROM runs WHERE id = {cut_off}"  # noqa: S608
    wait_until(lambda: demo.ask(has_ended, database="dagster") == [(True,)])
    assert "connecting" not in demo.output.replace("Database: connecting", "")
    assert "creating" not in demo.output
    assert "backfill" not in demo.output
    asked = requests.get(f"{demo.sandbox}/sandbox/requests", timeout=60).json()
    assert "authorization_code" not in [one["grant_type"] for one in asked]
    assert demo.ask("SELECT count(*), min(created_at), max(token_version) FROM api_keys") == before
    assert demo.ask("SELECT count(*) FROM call_logs") >= calls
    assert partition_stats(demo.url)["numMaterialized"] >= 6


def test_when_up_is_killed_everything_it_started_stops(demo: Up) -> None:
    demo.kill()

    wait_until(demo.everything_has_ended)
    assert not answers(demo.page)
    assert not answers(f"{demo.inner}/health")


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
        file.write_text("# of an older release")
