"""The Connections page as a process, as `make up` starts it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_SECRET
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.dagster_stand_in import DagsterStandIn
from voiceai_pipeline_tests.support.installation import HARBOR
from voiceai_pipeline_tests.support.keys import KEYRING
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.visitor import PASSWORD, Visitor

SECRETS = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", SANDBOX_CLIENT_SECRET, PASSWORD)


@pytest.fixture
def environment(database: Secret, sandbox: RunningSandbox, tmp_path: Path) -> dict[str, str]:
    ours = ("VOICEAI_", "HIGHLEVEL_", "DAGSTER_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **plain,
        "VOICEAI_HOME": str(tmp_path / "home"),
        "VOICEAI_DATABASE_URL": database.reveal(),
        "VOICEAI_TOKEN_KEYS": KEYRING,
        "HIGHLEVEL_AUTH_URL": f"{sandbox.url}/v2/oauth/chooselocation",
        "HIGHLEVEL_TOKEN_URL": f"{sandbox.url}/oauth/token",
        "HIGHLEVEL_API_URL": sandbox.url,
        "VOICEAI_PAGE_PORT": str(free_port()),
        "VOICEAI_PAGE_SECRET": PASSWORD,
    }


@contextlib.contextmanager
def started(env: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    log = folder / "page.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "voiceai_pipeline.web"],
            env=env,
            cwd=folder,
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_it_starts_answers_and_stops_and_its_log_holds_no_address_and_no_secret(
    environment: dict[str, str], database: Secret, dagster: DagsterStandIn, tmp_path: Path
) -> None:
    engine = open_engine(database)
    with engine.begin() as db:
        connections.add_user(db, HARBOR, business_name="Harbor Dental")
    engine.dispose()
    url = f"http://127.0.0.1:{environment['VOICEAI_PAGE_PORT']}"
    log = tmp_path / "page.log"

    environment["VOICEAI_DAGSTER_URL"] = dagster.url
    with started(environment, tmp_path) as process:
        wait_until(lambda: "The page listens at" in log.read_text())
        wait_until(lambda: dagster.monitored == 1)  # by the daemon monitor
        with Visitor(url) as visitor:
            visitor.log_in()
            connected = visitor.connect(HARBOR)
            refused = visitor.get("/oauth/callback?code=SANDBOX-CODE.x&state=SANDBOX-CODE.y")
            requests.get(f"{url}/\x7f?code=SANDBOX-CODE.z", timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0

    assert "Harbor Dental is connected" in connected.text
    assert refused.status_code == 400
    assert log.read_text().splitlines() == [
        f"The page listens at {url}",
        "login as operator from 127.0.0.1",
    ]
    assert not [secret for secret in SECRETS if secret in log.read_text()]


def test_a_taken_port_is_a_message(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(environment["VOICEAI_PAGE_PORT"])))
        other.listen()
        with started(environment, tmp_path) as process:
            assert process.wait(120) == 1

    port = environment["VOICEAI_PAGE_PORT"]
    assert (tmp_path / "page.log").read_text() == (
        f"The page cannot listen on 127.0.0.1:{port}: Address already in use. Stop the program "
        "that uses the port, or set VOICEAI_PAGE_PORT to another one.\n"
    )


def test_it_does_not_start_without_a_password_beyond_loopback(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment |= {"VOICEAI_PAGE_HOST": "0.0.0.0", "VOICEAI_PAGE_SECRET": ""}  # noqa: S104
    with started(environment, tmp_path) as process:
        assert process.wait(120) == 1

    assert "VOICEAI_PAGE_SECRET is not set" in (tmp_path / "page.log").read_text()


def test_it_does_not_import_dagster() -> None:
    code = (
        "import sys, voiceai_pipeline.web.__main__;"
        "print([name for name in sys.modules if name.split('.')[0] == 'dagster'])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout == "[]\n"
