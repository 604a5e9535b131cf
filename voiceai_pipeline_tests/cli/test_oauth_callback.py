"""``connect``: the redirect is caught, waited for or pasted, and belongs to this request."""

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from click.testing import CliRunner

from voiceai_pipeline.cli import main
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.demo import authorize
from voiceai_pipeline_tests.support.command_line import (
    Outcome,
    Program,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.up import clean_environment


def test_connect_catches_the_redirect_and_connects(program: Program) -> None:
    program.add("Harbor Dental")
    with program.talking("connect", "Harbor Dental", "--no-browser") as command:
        url = printed_url(command)
        callback = consent(url, "Harbor Dental")
        # A browser opens idle connections in advance.
        with socket.create_connection(address_of(callback)):
            assert requests.head(callback, timeout=60).ok
            ahead = requests.get(callback, headers={"Sec-Purpose": "prefetch"}, timeout=60)
            assert ahead.status_code == 503
            assert requests.get(callback.replace("/callback", "/favicon"), timeout=60).ok is False
            page = requests.get(callback, timeout=60)
            outcome = ending(command)

    assert page.text == "Received. See the terminal for the result; you can close this page."
    assert outcome.code == 0
    assert "Harbor Dental" in outcome.out
    assert program.ask("SELECT connection_state FROM api_keys") == [("connected",)]
    assert url_query(url)["redirect_uri"] == [program.env["HIGHLEVEL_REDIRECT_URI"]]


def test_connect_refuses_the_redirect_of_another_request(program: Program) -> None:
    program.add("Harbor Dental")
    with program.talking("connect", "Harbor Dental", "--no-browser") as command:
        callback = consent(printed_url(command), "Harbor Dental")
        forged = callback[: callback.index("state=")] + "state=of-another-request"
        requests.get(forged, timeout=60)
        outcome = ending(command)

    assert outcome.code == 1
    assert "its state is wrong or missing" in outcome.err
    assert "run the command again" in outcome.err
    assert program.ask("SELECT count(*) FROM api_keys") == [(0,)]


def test_connect_says_that_consent_was_refused(program: Program) -> None:
    program.add("Harbor Dental")
    with program.talking("connect", "Harbor Dental", "--no-browser") as command:
        url = printed_url(command)
        refused = requests.post(
            url, data={"action": "cancel"}, timeout=60, allow_redirects=False
        ).headers["Location"]
        requests.get(refused, timeout=60)
        outcome = ending(command)

    assert outcome.code == 1
    assert "noAppVersionIdFound" in outcome.err  # both causes, before HighLevel's page shows it
    assert outcome.err.endswith(
        "Error: The consent was refused in the browser. Nothing was changed; start the connection "
        "again.\n"
    )


def test_connect_lists_the_locations_of_an_agency_and_accepts_one(program: Program) -> None:
    program.add("Northwind Agency")
    bikes = next(p for p in program.highlevel.world.locations.values() if "Bikes" in p.name)
    outcomes = []
    for words in ([], ["--location", bikes.id]):
        with program.talking("connect", "Northwind Agency", "--no-browser", *words) as command:
            requests.get(consent(printed_url(command), "Northwind Agency"), timeout=60)
            outcomes.append(ending(command))

    asked, answered = outcomes
    assert asked.code == 1
    assert "Choose one of the agency's locations with --location: " in asked.err
    assert f"({bikes.id})" in asked.err
    assert answered.code == 0
    assert program.ask("SELECT location_id FROM api_keys") == [(bikes.id,)]


def test_connect_says_that_the_port_of_the_redirect_is_in_use(program: Program) -> None:
    program.add("Harbor Dental")
    target = urlsplit(program.env["HIGHLEVEL_REDIRECT_URI"])
    with socket.create_server((target.hostname or "", target.port or 0)):
        refused = program("connect", "Harbor Dental", "--no-browser")

    assert refused.code == 1
    assert refused.err.endswith(
        f"Error: Cannot listen on {target.netloc}, where HIGHLEVEL_REDIRECT_URI points (Address "
        "already in use). Stop the program that uses the port, or change the variable.\n"
    )


@pytest.mark.parametrize("action", ["allow", "cancel"])
def test_connect_waits_for_the_connections_page_where_that_receives_the_redirect(
    action: str, program: Program, tmp_path: Path
) -> None:
    program.add("Harbor Dental")
    env = {**clean_environment(Path(program.env["VOICEAI_HOME"]), **program.env)}
    env["VOICEAI_PAGE_PORT"] = str(urlsplit(program.env["HIGHLEVEL_REDIRECT_URI"]).port)
    log = (tmp_path / "page.log").open("w")
    argv = [sys.executable, "-m", "voiceai_pipeline.web"]
    with log, subprocess.Popen(argv, env=env, stdout=log, stderr=log) as page:
        try:
            health = f"http://127.0.0.1:{env['VOICEAI_PAGE_PORT']}/health"
            wait_for(health)
            with program.talking("connect", "Harbor Dental", "--no-browser") as command:
                url = printed_url(command)
                if action == "allow":
                    back = consent(url, "Harbor Dental")
                else:
                    data = {"action": "cancel"}
                    answer = requests.post(url, data=data, timeout=60, allow_redirects=False)
                    back = answer.headers["Location"]
                requests.get(back, timeout=60)
                outcome = ending(command)
        finally:
            page.terminate()
    if action == "allow":
        assert outcome.code == 0
        assert "connected" in outcome.out
        assert program.ask("SELECT connection_state FROM api_keys") == [("connected",)]
    else:
        assert outcome.code == 1
        assert "The consent was refused in the browser" in outcome.err
        assert program.ask("SELECT count(*) FROM api_keys") == [(0,)]


def wait_for(url: str) -> None:
    """Until a server answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(url, timeout=2)
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing answers at {url}")


def test_a_redirect_to_another_host_is_pasted_and_never_shown(
    program: Program,
) -> None:
    program.add("Harbor Dental")
    env = {**program.env, "HIGHLEVEL_REDIRECT_URI": "https://dash.example.test/oauth/callback"}
    pasted = "https://dash.example.test/oauth/callback?code=hunter2&state=wrong\n"

    result = CliRunner(env=env).invoke(
        main.cli, ["connect", "Harbor Dental", "--no-browser"], input=pasted
    )

    assert result.exit_code == 1
    assert "Paste the URL you were redirected to" in result.output
    assert "its state is wrong or missing" in str(result.exception)
    assert "hunter2" not in result.output


def test_a_pasted_url_without_a_state_connects_the_user_once_the_operator_confirms(
    program: Program,
) -> None:
    program.add("Harbor Dental")
    env = {**program.env, "HIGHLEVEL_REDIRECT_URI": "https://dash.example.test/oauth/callback"}
    client = HighLevelClient(Settings.load(env).highlevel)
    with client:
        from_marketplace = client.authorize_url("x").replace("&state=x", "")
    for answer, code, stored in (("n", 1, 0), ("y", 0, 1)):
        pasted = consent(from_marketplace, "Harbor Dental")
        assert "state" not in url_query(pasted)
        result = CliRunner(env=env).invoke(
            main.cli, ["connect", "Harbor Dental", "--no-browser"], input=f"{pasted}\n{answer}\n"
        )
        assert result.exit_code == code, result.output
        assert "Connect Harbor Dental with it?" in result.output
        assert program.ask("SELECT count(*) FROM api_keys") == [(stored,)]


def test_a_private_token_is_read_from_standard_input_and_never_printed(program: Program) -> None:
    program.add("Harbor Dental")
    location = DEMO["Harbor Dental"].installs_on
    token = program.highlevel.world.private_tokens.of(location)
    command = ("connect", "Harbor Dental", "--private-token")
    lacking = program(*command, typed=f"{token}\n")
    wrong = program(*command, "--location", "LocSomewhereElse", typed=token)
    both = program(*command, typed=f"{token}\r\n{location}\n")

    assert lacking.code == 2
    assert "Standard input must hold the token and, unless --location names it" in lacking.err
    assert wrong.code == 1
    assert "The private integration token is not for this location" in wrong.err
    assert both.code == 0, both.err
    assert "connected" in both.out
    assert token not in lacking.err + wrong.err + both.out
    assert program.ask("SELECT user_type FROM api_keys") == [("Private",)]


def test_a_location_of_ones_own_is_connected_where_there_are_no_users_yet(
    program: Program,
) -> None:
    location = DEMO["Harbor Dental"].installs_on
    token = program.highlevel.world.private_tokens.of(location)
    new = ("connect", "My business", "--new", "--private-token")
    none = program("users")
    done = program(*new, typed=f"{token}\n{location}\n")
    again = program(*new, typed=f"{token}\n{location}\n")
    unknown = program("connect", "Ada")
    no_app = {
        "HIGHLEVEL_API_URL": "https://services.leadconnectorhq.com",
        "HIGHLEVEL_CLIENT_ID": "",
        "HIGHLEVEL_CLIENT_SECRET": "",
    }
    without_app = program("connect", "My business", "--no-browser", **no_app)

    assert (none.code, none.err) == (
        0,
        "No users yet. Add and connect one: voiceai-pipeline connect NAME --new\n",
    )
    assert done.code == 0, done.err
    assert program.ask(
        "SELECT business_name, user_type FROM users JOIN api_keys ON user_id = users.id"
    ) == [("My business", "Private")]
    assert (again.code, again.err) == (1, "Error: There is a user My business already.\n")
    assert "connect NAME --new" in unknown.err
    assert without_app.code == 1
    assert "No app is configured: HIGHLEVEL_CLIENT_ID is not set." in without_app.err


def printed_url(command: subprocess.Popen[str]) -> str:
    """The authorize page, which the command prints before it waits for the redirect."""
    assert command.stdout is not None
    for line in command.stdout:
        if "chooselocation" in line:
            url = line.strip()
            wait_for_port(address_of(url_query(url)["redirect_uri"][0]))
            return url
    raise AssertionError("it printed no URL")


def wait_for_port(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address):
            return
        assert time.monotonic() < deadline, "it does not listen"
        time.sleep(0.02)


def consent(url: str, name: str) -> str:
    """Press Allow; the URL that the browser is redirected to."""
    with requests.Session() as browser:
        return authorize(browser, url, DEMO[name].installs_on)


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def url_query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def ending(command: subprocess.Popen[str]) -> Outcome:
    out, err = command.communicate(timeout=120)
    return Outcome(command.returncode, out, err)
