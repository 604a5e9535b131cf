"""A running product whose processes are killed, which is stopped, started again and then killed.

The tests are ordered: each continues where the one before it stopped.
"""

import functools
import os
import re
import signal
from uuid import UUID

import pytest
import requests

from voiceai_pipeline.database.embedded import is_running
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_SECRET
from voiceai_pipeline.web.dagster_client import ENDED, Dagster
from voiceai_pipeline_tests.support.processes import is_alive, wait_until
from voiceai_pipeline_tests.support.up import Up, answers, partition_stats, port_in_use, taken

pytestmark = pytest.mark.acceptance

SECRETS = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", SANDBOX_CLIENT_SECRET)


@pytest.fixture(scope="module")
def demo(running_product: Up) -> Up:
    return running_product


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
        "Stopped. All data are kept; start again with: voiceai-pipeline up"
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
        demo.sandbox_port, f"VOICEAI_SANDBOX_PORT={demo.sandbox_port + 1} voiceai-pipeline up"
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
