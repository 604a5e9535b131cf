"""The guarded front as real processes (REQUIREMENTS X14); the last test stops the UI process."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from dagster_graphql.schema import create_schema
from playwright.sync_api import Browser
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from voiceai_pipeline.core.dagster_access import KEY_HEADER, ROLE_HEADER
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.sandbox.server import running
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web import dagster_policy
from voiceai_pipeline.web.dagster_policy import Kind
from voiceai_pipeline_tests.support.attacks import ATTACKS, INSIDE, REBOUND, Attacker
from voiceai_pipeline_tests.support.dagster_mutations import (
    HARMLESS,
    MUTATIONS,
    REFUSED_LIKEWISE,
    REPOSITORY,
)
from voiceai_pipeline_tests.support.front import ANALYSTS_PASSWORD, Front, running_front
from voiceai_pipeline_tests.support.processes import is_alive, wait_until
from voiceai_pipeline_tests.support.up import graphql
from voiceai_pipeline_tests.support.visitor import Visitor

pytestmark = pytest.mark.acceptance

SWITCH = "{ instance { autoMaterializePaused } }"
FLIP = "mutation { setAutoMaterializePaused(paused: %s) }"


@pytest.fixture(scope="module")
def front(
    postgres: EmbeddedPostgres,
    template: str,
    dagster_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    postgres.create_database("front", template=template)
    postgres.create_database("front_dagster", template=dagster_template)
    dagsters = postgres.url("front_dagster", driver="psycopg2")
    home = tmp_path_factory.mktemp("front") / "home"
    with (
        running(World(), limits=False) as highlevel,
        running_front(home, Secret(postgres.url("front")), dagsters, highlevel.url) as front,
    ):
        yield front


def is_paused(front: Front) -> bool:
    return bool(graphql(f"{front.open}/dagster", SWITCH)["instance"]["autoMaterializePaused"])


# Attacks -----------------------------------------------------------------------------------------


def test_no_foreign_page_can_make_a_browser_change_or_read_anything(
    front: Front, chromium: Browser
) -> None:
    attacker = Attacker(chromium, f"{front.open}/dagster")
    assert not attacker.succeeds(*ATTACKS, *REBOUND, *INSIDE)


def test_only_a_query_as_json_from_our_own_page_passes(front: Front) -> None:
    url = f"{front.open}/dagster/graphql"
    before = is_paused(front)
    body = json.dumps({"query": FLIP % str(not before).lower()})
    json_type = {"Content-Type": "application/json"}

    def status(method: str = "POST", path: str = "", **headers: str) -> int:
        sent = {**json_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer = requests.request(
            method, url + path, data=body, headers=sent, timeout=30, allow_redirects=False
        )
        return answer.status_code

    query = f"?query={FLIP % str(not before).lower()}"
    assert {status("GET", query), status("HEAD", query)} == {404}
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        assert status(method, query) == 405
    for media_type in (
        "text/plain",
        "text/plain;application/json",
        "application/graphql",
        "application/jsonp",
        "multipart/form-data; boundary=application/json",
        "",
    ):
        assert status(path=query, Content_Type=media_type) == 415
    for site in ("cross-site", "same-site", "none", "same-origin, cross-site"):
        assert status(Sec_Fetch_Site=site) == 403
    for origin in ("https://evil.test", "null", "http://127.0.0.1:1", f"{front.open}.evil.test"):
        assert status(Origin=origin) == 403
    for host in ("evil.test", "127.0.0.1.evil.test", f"evil.test:{urlsplit(front.open).port}"):
        assert status(Host=host) == 400
    for path in ("report_asset_materialization/x", "report_asset_check/x", "other"):
        assert requests.post(f"{front.open}/dagster/{path}", timeout=30).status_code == 405
    assert is_paused(front) is before


def test_what_dagster_serves_beside_its_ui_is_closed(front: Front) -> None:
    for path in (
        "notebook?path=x.ipynb&repoLocName=x",
        "dagit/notebook",
        "dagit_info",
        "download_debug/x",
        "vendor/graphiql/graphiql.min.css",
        "logs/%2e%2e/graphql",
        "logs/x/..%2f..%2fgraphql",
        "report_asset_observation/x",
    ):
        answer = requests.get(f"{front.open}/dagster/{path}", timeout=30)
        assert answer.status_code == 404, path
        assert "is closed here" in answer.text


def test_a_path_that_dagster_does_not_know_yet_is_the_ui_and_nothing_else(front: Front) -> None:
    there = requests.get(f"{front.open}/dagster/runs", timeout=30)
    invented = requests.get(f"{front.open}/dagster/new_release/route", timeout=30)
    assert "__NEXT_DATA__" in there.text
    assert "__NEXT_DATA__" in invented.text


def test_dagsters_own_process_answers_to_the_key_only(front: Front) -> None:
    refused = [
        requests.get(f"{front.inner}{path}", headers=headers, timeout=30)
        for path in ("/", "/dagster/runs", "/dagster/graphql?query={version}", "/server_info")
        for headers in ({}, {KEY_HEADER: "guess"}, {ROLE_HEADER: "operator"})
    ]
    assert {answer.status_code for answer in refused} == {403}
    assert f"Open Dagster at {front.open}/dagster" in refused[0].text
    with pytest.raises(InvalidStatus):
        connect(f"{front.inner.replace('http', 'ws')}/dagster/graphql").close()


def test_every_route_of_this_release_is_known_here() -> None:
    """What another release adds is closed; this says that somebody has to look at it."""
    from dagster_webserver.webserver import DagsterWebserver

    routes = DagsterWebserver.build_routes(_Routes("/dagster"))  # type: ignore[arg-type]
    (mount, _root) = routes
    assert isinstance(mount, Mount)
    paths = {
        (type(route).__name__, route.path)
        for route in mount.routes
        if isinstance(route, Route | WebSocketRoute | Mount) and route.name != "root_static"
    }
    assert paths == {
        ("Route", "/server_info"),
        ("Route", "/dagit_info"),
        ("Route", "/graphql"),
        ("WebSocketRoute", "/graphql"),
        ("Mount", "/_next"),
        ("Mount", "/vendor"),
        ("Route", "/logs/{path:path}"),
        ("Route", "/notebook"),
        ("Route", "/dagit/notebook"),
        ("Route", "/download_debug/{run_id:str}"),
        ("Route", "/report_asset_materialization/{asset_key:path}"),
        ("Route", "/report_asset_check/{asset_key:path}"),
        ("Route", "/report_asset_observation/{asset_key:path}"),
        ("Route", "/{path:path}"),
        ("Route", "/"),
    }
    files = [r.path for r in mount.routes if isinstance(r, Route) and r.name == "root_static"]
    kinds = {path: found and found.kind for path in files for found in [dagster_policy.find(path)]}
    shown = {path for path, kind in kinds.items() if kind is Kind.FILE}
    # The documents among the files are the UI, whose nonce the address `/` fills in.
    assert files != []
    assert kinds.keys() - shown == {"/404.html", "/csp-header.txt", "/index.html"}


class _Routes:
    """The part of Dagster's web server that lists its routes."""

    def __init__(self, prefix: str) -> None:
        from dagster_webserver.webserver import DagsterWebserver

        self._class = DagsterWebserver
        self._app_path_prefix = prefix

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._class, name)
        return found.__get__(self) if callable(found) else found


# Roles -------------------------------------------------------------------------------------------


def query(visitor: Visitor, text: str, **headers: str) -> requests.Response:
    return visitor.session.post(
        f"{visitor.url}/dagster/graphql", json={"query": text}, headers=headers, timeout=30
    )


def test_an_analyst_sees_everything_and_changes_nothing(front: Front) -> None:
    there = {"REPOSITORY": REPOSITORY, "DAY": "2026-11-20", "RUN": "no-such-run"}
    with front.visitor(ANALYSTS_PASSWORD) as analyst, front.visitor() as operator:
        granted = "{ permissions { permission value } }"
        allowed = {
            name: {one["permission"] for one in permissions if one["value"]}
            for name, visitor in (("analyst", analyst), ("operator", operator))
            for permissions in [query(visitor, granted).json()["data"]["permissions"]]
        }
        assert "launch_pipeline_execution" in allowed["operator"]
        assert allowed["analyst"] == set()
        for name, arguments in MUTATIONS.items():
            for word, value in there.items():
                arguments = arguments.replace(word, value)
            call = f"{name}({arguments})" if arguments else name
            text = f"mutation {{ {call} {{ __typename }} }}"
            # A header that only the front may send does not pass.
            for headers in ({}, {ROLE_HEADER: "operator", KEY_HEADER: "guess"}):
                answer = query(analyst, text, **headers).json()["data"][name]["__typename"]
                assert answer in ("UnauthorizedError", "TerminateRunFailure"), (name, answer)
        before = query(analyst, SWITCH).json()
        assert query(analyst, FLIP % "true").json()["errors"]
        assert query(analyst, FLIP % "false").json()["errors"]
        assert query(analyst, SWITCH).json() == before
        assert "__NEXT_DATA__" in analyst.get("/dagster/runs").text


def test_every_mutation_of_this_release_is_known_here() -> None:
    """One that checks no permission would be open to analysts: a new one has to be looked at."""
    mutations = create_schema().graphql_schema.mutation_type
    assert mutations is not None
    assert mutations.fields.keys() == MUTATIONS.keys() | REFUSED_LIKEWISE | HARMLESS


def test_buttons_are_neither_shown_to_analysts_nor_accepted_from_them(front: Front) -> None:
    someone = "/users/00000000-0000-4000-8000-000000000001"
    with front.visitor(ANALYSTS_PASSWORD) as analyst:
        for action in ("connect", "sync", "test", "disconnect", "location", "pause", "resume"):
            pressed = analyst.post(f"{someone}/{action}", follow=False)
            assert pressed.status_code == 403
            assert "Only operators can do this" in pressed.text
        for page in ("disconnect", "location", "pause"):
            assert analyst.get(f"{someone}/{page}").status_code == 403
        assert 'action="/users/' not in analyst.get("/").text
        assert analyst.post("/logout", follow=False).status_code == 303


# The login ---------------------------------------------------------------------------------------


def test_without_a_login_nothing_of_dagster_is_shown_and_the_link_is_kept(front: Front) -> None:
    deep = "/dagster/assets/call_logs?view=partitions&partition=2026-11-20"
    with front.visitor(None) as stranger:
        asked = stranger.get(deep, follow=False)
        assert asked.status_code == 303
        assert asked.headers["Location"].startswith("/login?next=%2Fdagster%2Fassets%2F")
        assert stranger.get("/dagster/_next/static/x.js", follow=False).status_code == 303
        assert stranger.get("/dagster/server_info", follow=False).status_code == 303
        refused = query(stranger, SWITCH)
        assert refused.status_code == 401
        assert "Reload the page to log in." in refused.json()["errors"][0]["message"]
        with pytest.raises(InvalidStatus):
            subscribed(stranger)
        assert stranger.log_in(next=deep).headers["Location"] == deep
        assert "__NEXT_DATA__" in stranger.get(deep).text


def test_old_links_lead_to_the_same_page_under_dagster(front: Front) -> None:
    for path in ("/assets/sync_status?view=partitions", "/runs/x", "/runs", "/deployment/daemons"):
        moved = requests.get(front.open + path, allow_redirects=False, timeout=30)
        assert (moved.status_code, moved.headers["Location"]) == (308, f"/dagster{path}")
    for path in ("//evil.test", "/runs//evil.test", "/runs/%0d%0aSet-Cookie:x=y"):
        moved = requests.get(front.open + path, allow_redirects=False, timeout=30)
        assert moved.headers.get("Location", "/dagster/").startswith("/dagster/")
        assert "x" not in moved.cookies


def test_a_logout_ends_what_an_open_tab_listens_to(front: Front) -> None:
    with front.visitor() as operator, subscribed(operator) as listening:
        listening.send(json.dumps({"type": "connection_init"}))
        assert json.loads(listening.recv(10)) == {"type": "connection_ack"}
        operator.post("/logout")
        with pytest.raises(ConnectionClosed):
            listening.recv(30)


def subscribed(visitor: Visitor, **headers: str) -> ClientConnection:
    """A websocket as Dagster's UI opens it."""
    cookies = "; ".join(f"{one.name}={one.value}" for one in visitor.session.cookies)
    return connect(
        f"{visitor.url.replace('http', 'ws')}/dagster/graphql",
        additional_headers={"Cookie": cookies, "Origin": visitor.url, **headers},
        subprotocols=["graphql-ws"],  # type: ignore[list-item]
        user_agent_header=None,
        proxy=None,
    )


def test_a_websocket_from_another_origin_or_host_is_refused(front: Front) -> None:
    with front.visitor() as operator:
        url = f"{front.locked.replace('http', 'ws')}/dagster/graphql"
        cookies = "; ".join(f"{one.name}={one.value}" for one in operator.session.cookies)
        for headers in (
            {},
            {"Origin": "https://evil.test"},
            {"Origin": front.locked, "Sec-Fetch-Site": "cross-site"},
        ):
            with pytest.raises(InvalidStatus):
                connect(
                    url,
                    additional_headers={"Cookie": cookies, **headers},
                    subprotocols=["graphql-ws"],  # type: ignore[list-item]
                    proxy=None,
                ).close()
        assert upgraded(front.locked, "127.0.0.1", front.locked, cookies).startswith("HTTP/1.1 101")
        evil = upgraded(front.locked, "evil.test", "http://evil.test", cookies)
        assert evil.startswith("HTTP/1.1 403")


def upgraded(url: str, host: str, origin: str, cookies: str) -> str:
    """The answer to a handshake with another Host, which no client library sends."""
    port = urlsplit(url).port
    name = host if host == "evil.test" else f"{host}:{port}"
    lines = (
        "GET /dagster/graphql HTTP/1.1",
        f"Host: {name}",
        f"Origin: {origin}",
        f"Cookie: {cookies}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: graphql-ws",
    )
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return client.recv(1024).decode()


# The policy --------------------------------------------------------------------------------------


def test_each_kind_of_file_has_its_policy(front: Front) -> None:
    page = requests.get(f"{front.open}/dagster/runs", timeout=30)
    nonce = re.search(r'<script nonce="(\w+)"', page.text)
    assert nonce is not None
    host = urlsplit(front.open).netloc
    assert page.headers["Content-Security-Policy"].split("; ") == [
        "default-src 'none'",
        f"script-src 'nonce-{nonce[1]}' 'strict-dynamic'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        f"connect-src 'self' ws://{host}",
        "worker-src 'self' blob:",
        "manifest-src 'self'",
        "media-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
    script = re.search(r'src="(/dagster/_next/static/[^"]+\.js)"', page.text)
    assert script is not None
    served = requests.get(front.open + script[1], timeout=30)
    assert served.headers["Content-Security-Policy"] == dagster_policy.SCRIPT
    assert served.headers["Cache-Control"].startswith("private")
    info = requests.get(f"{front.open}/dagster/server_info", timeout=30)
    assert info.headers["Content-Security-Policy"] == dagster_policy.SANDBOX
    assert info.headers["Cache-Control"] == "no-store"
    for answer in (page, served, info):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# The end -----------------------------------------------------------------------------------------


def test_while_dagster_is_away_the_pages_say_so_and_its_code_server_has_ended(front: Front) -> None:
    children = [child.pid for child in psutil.Process(front.ui.pid).children(recursive=True)]
    assert children != []
    front.ui.send_signal(signal.SIGTERM)
    assert front.ui.wait(60) == 0
    wait_until(lambda: not any(map(is_alive, children)), seconds=60)
    page = requests.get(f"{front.open}/dagster/runs", timeout=30)
    assert page.status_code == 503
    assert "Dagster is starting, or has stopped" in page.text
    assert page.headers["Refresh"] == "3"
    asked = requests.post(f"{front.open}/dagster/graphql", json={"query": SWITCH}, timeout=30)
    assert asked.status_code == 503
    assert "Dagster is starting" in asked.json()["errors"][0]["message"]
    assert requests.get(front.open, timeout=30).status_code == 200
