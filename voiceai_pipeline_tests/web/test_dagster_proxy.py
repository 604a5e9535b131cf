"""What of a visitor's request reaches Dagster's UI process: recorded there."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve

from voiceai_pipeline.core.dagster_access import KEY_HEADER, ROLE_HEADER
from voiceai_pipeline_tests.support.installation import Installation, Open
from voiceai_pipeline_tests.support.scripted_server import Reply, Scripted
from voiceai_pipeline_tests.support.visitor import PASSWORD, Visitor

KEY = "inner-key-0123456789abcdef"
ANALYSTS = "looking is free 123"
FORGED = {
    "X-VoiceAI-Role": "operator",
    "X-VoiceAI-Key": "guessed",
    "x-voiceai-anything": "1",
    "X_VoiceAI_Role": "operator",
    "Authorization": "Bearer made-up",
    "Cookie": "dagster=1",
    "X-Forwarded-For": "192.0.2.7",
    "Forwarded": "for=192.0.2.7",
}
"""What a visitor may send beside our own cookies, in the hope that it counts further in."""

OURS = {KEY_HEADER, ROLE_HEADER}
OF_HTTP = {"host", "connection", "accept-encoding", "content-length", "content-type"}
OF_CACHING = {"if-none-match", "if-modified-since"}


@contextmanager
def analyst_at(open_page: Open, upstream: str) -> Iterator[tuple[Installation, Visitor]]:
    passwords = {"VOICEAI_PAGE_SECRET": PASSWORD, "VOICEAI_ANALYST_SECRET": ANALYSTS}
    inner = {"VOICEAI_DAGSTER_URL": upstream, "VOICEAI_DAGSTER_KEY": KEY}
    with open_page(**passwords, **inner) as page, page.visitor() as analyst:
        analyst.log_in(ANALYSTS)
        yield page, analyst


@contextmanager
def analysts_websocket(
    open_page: Open, upstream: Callable[[ServerConnection], None], headers: Mapping[str, str]
) -> Iterator[ClientConnection]:
    """A websocket of a logged-in analyst, with these headers too, and what Dagster does with it."""
    server: Server = serve(upstream, "127.0.0.1", 0, subprotocols=["graphql-ws"])  # type: ignore[list-item]
    url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    with server, analyst_at(open_page, url) as (page, analyst):
        cookies = "; ".join(f"{one.name}={one.value}" for one in analyst.session.cookies)
        with connect(
            f"{page.url.replace('http', 'ws')}/dagster/graphql",
            additional_headers={**headers, "Cookie": cookies, "Origin": page.url},
            subprotocols=["graphql-ws"],  # type: ignore[list-item]
            proxy=None,
        ) as socket:
            yield socket


def test_neither_cookies_nor_private_headers_of_a_visitor_go_upstream(open_page: Open) -> None:
    nonce = {"Content-Security-Policy": "script-src 'nonce-abcdefghijklmnop'"}
    answer = Reply({"data": {}}, headers=nonce)
    with Scripted(answer) as dagster, analyst_at(open_page, dagster.url) as (page, analyst):
        for path in ("/dagster/runs", "/dagster/_next/static/x.js", "/dagster/graphql"):
            url, body = page.url + path, json.dumps({"query": "{ version }"})
            conditions = {"If-None-Match": '"x"', "Referer": page.url}
            headers = {**FORGED, **conditions, "Content-Type": "application/json"}
            # Our own cookie too, which a browser would send.
            headers["Cookie"] += "; " + "; ".join(
                f"{c.name}={c.value}" for c in analyst.session.cookies
            )
            if path.endswith("graphql"):
                analyst.session.post(url, data=body, headers=headers, timeout=30)
            else:
                analyst.session.get(url, headers=headers, timeout=30)
        received = [{name.lower(): v for name, v in one.headers.items()} for one in dagster.asked]
    assert len(received) == 3
    for headers in received:
        assert headers.keys() <= OURS | OF_HTTP | OF_CACHING
        assert headers[ROLE_HEADER] == "analyst"
        assert headers[KEY_HEADER] == KEY


def test_a_websocket_carries_the_role_of_its_session_and_nothing_else(open_page: Open) -> None:
    received: list[dict[str, str]] = []

    def record(connection: ServerConnection) -> None:
        assert connection.request is not None
        received.append({n.lower(): v for n, v in connection.request.headers.raw_items()})
        connection.recv(30)

    with analysts_websocket(open_page, record, FORGED) as socket:
        socket.send("{}")
    (headers,) = received
    handshake = {name for name in headers if name.startswith("sec-websocket-")} | {"upgrade"}
    assert headers.keys() <= OURS | OF_HTTP | handshake
    assert headers[ROLE_HEADER] == "analyst"
    assert headers[KEY_HEADER] == KEY


def test_what_is_no_query_does_not_reach_dagster(
    open_page: Open, caplog: pytest.LogCaptureFixture
) -> None:
    query = {"query": "{ version }"}
    with (
        Scripted(Reply({"data": {}})) as dagster,
        analyst_at(open_page, dagster.url) as (page, analyst),
    ):
        url, json_type = f"{page.url}/dagster/graphql", {"Content-Type": "application/json"}
        for body in (
            *(b"", b"{", b"null", b"[" * 100_000, b"\xff", json.dumps([query, query]).encode()),
            *(b"{}", b'{"query": 7}', json.dumps({**query, "variables": []}).encode()),
        ):
            refused = analyst.session.post(url, data=body, headers=json_type, timeout=30)
            assert refused.status_code == 400
            assert "Send one query" in refused.text
        assert dagster.asked == []
        for more in ({}, {"variables": None}, {"variables": {"a": 1}, "extensions": {}}):
            passed = analyst.session.post(url, json={**query, **more}, timeout=30)
            assert passed.status_code == 200
    assert "Traceback" not in caplog.text


def test_a_message_that_is_no_text_ends_a_websocket(
    open_page: Open, caplog: pytest.LogCaptureFixture
) -> None:
    def wait(connection: ServerConnection) -> None:
        connection.recv(30)

    with analysts_websocket(open_page, wait, {}) as socket:
        socket.send(b"\0")
        with pytest.raises(ConnectionClosedOK):
            socket.recv(30)
    assert "Unexpected error" not in caplog.text
