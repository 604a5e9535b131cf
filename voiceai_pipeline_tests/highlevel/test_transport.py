"""What is sent with a request, and whether it was handed over (T8): what stands in the way before
that spends nothing, counts as no attempt and is named; a loss after that leaves the exchange in
doubt.
"""

import json
import socket
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa

from voiceai_pipeline.connections.alert_channels import Webhook
from voiceai_pipeline.connections.alert_messages import Message
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.connection import Connection, ConnectionState
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel import errors
from voiceai_pipeline.highlevel.answer import Answer
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline.highlevel.transport import USER_AGENT, Transport, open_session
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.highlevel import open_client, read_page
from voiceai_pipeline_tests.support.ports import free_port
from voiceai_pipeline_tests.support.scripted_server import Reply, Scripted
from voiceai_pipeline_tests.support.sockets import (
    Talk,
    certificate,
    hangs_up,
    is_silent,
    listening,
    says,
)
from voiceai_pipeline_tests.support.token_endpoint import kept, stored, tokens_at

GRANT = b'{"access_token": "at-2", "refresh_token": "rt-2", "expires_in": 86399}'


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# Not sent -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """What stands in the way, and what the message has to name."""

    names: str
    variable: str = ""
    proxy: Talk | None = None
    endpoint: Talk | None = None
    value: str = ""
    url: str = ""

    @property
    def target(self) -> str:
        """Requests to this machine go through no proxy."""
        host = "endpoint.example.test" if "PROXY" in self.variable.upper() else "127.0.0.1"
        return self.url or f"https://{host}:{{port}}/oauth/token"


WAYS = {
    "the proxy answers CONNECT with 503": Way(
        "HTTPS_PROXY names did not let the request through: HTTP 503",
        "HTTPS_PROXY",
        says(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
    ),
    "the proxy wants a password": Way(
        "https_proxy names did not let the request through: HTTP 407",
        "https_proxy",
        says(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
    ),
    "the proxy hangs up": Way("ALL_PROXY", "ALL_PROXY", hangs_up),
    "the proxy speaks no HTTP": Way("HTTPS_PROXY", "HTTPS_PROXY", says(b"220 mail ready\r\n")),
    "the proxy says nothing": Way("HTTPS_PROXY", "HTTPS_PROXY", is_silent),
    "no proxy listens": Way("HTTPS_PROXY", "HTTPS_PROXY", value="http://127.0.0.1:{free}"),
    "the proxy lets it through to TLS that fails": Way(
        "", "HTTPS_PROXY", says(b"HTTP/1.1 200 OK\r\n\r\n")
    ),
    "a SOCKS proxy without its package": Way(
        "ALL_PROXY names a SOCKS proxy, which requires the package PySocks",
        "ALL_PROXY",
        value="socks5://127.0.0.1:9",
    ),
    "no proxy's address at all": Way("HTTPS_PROXY", "HTTPS_PROXY", value="http:///nonsense"),
    "the file of certificates is missing": Way(
        "the file of certificates that REQUESTS_CA_BUNDLE names cannot be read",
        "REQUESTS_CA_BUNDLE",
        value="/nowhere/ca.pem",
    ),
    "the endpoint hangs up before TLS": Way("", endpoint=hangs_up),
    "the endpoint speaks no TLS": Way("TLS failed", endpoint=says(b"HTTP/1.1 400 Bad\r\n\r\n")),
    "the endpoint says nothing before TLS": Way("", endpoint=is_silent),
    "the endpoint refuses the connection": Way("", url="http://127.0.0.1:{free}/oauth/token"),
    "the name does not exist": Way(
        "its host name could not be resolved", url="http://endpoint.invalid/oauth/token"
    ),
}


@pytest.mark.parametrize("title", WAYS)
def test_what_was_not_sent_is_no_attempt_and_names_what_to_fix(
    title: str,
    expired: Connection,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way = WAYS[title]
    before = stored(engine, expired.user.id)
    with ExitStack() as stack:
        port = stack.enter_context(listening(way.endpoint or hangs_up))
        if way.variable:
            given = way.value
            if way.proxy:
                given = f"http://127.0.0.1:{stack.enter_context(listening(way.proxy))}"
            monkeypatch.setenv(way.variable, given.format(free=free_port()))
        url = way.target.format(port=port, free=free_port())
        with (
            tokens_at(sandbox, engine, vault, clock, url) as tokens,
            pytest.raises(PipelineError) as caught,
        ):
            tokens.get_valid_token(expired.user.id)
    assert isinstance(caught.value, HighLevelError)
    assert not caught.value.sent
    assert caught.value.failure is FailureClass.UNREACHABLE
    assert way.names in caught.value.detail
    after = stored(engine, expired.user.id)
    assert kept(after) == kept(before)
    assert after["failed_attempts"] == 0
    assert after["connection_state"] == ConnectionState.CONNECTED.value
    assert after["lease_id"] is None


def test_a_replay_that_was_not_sent_is_not_used_up(
    expired: Connection,
    sandbox: RunningSandbox,
    engine: sa.Engine,
    vault: TokenVault,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user_id = expired.user.id
    with (
        listening(is_silent) as port,
        tokens_at(sandbox, engine, vault, clock, f"http://127.0.0.1:{port}/oauth/token") as tokens,
        pytest.raises(PipelineError),
    ):
        tokens.get_valid_token(user_id)
    doubtful = stored(engine, user_id)
    assert doubtful["connection_state"] == ConnectionState.IN_DOUBT.value
    clock.now += timedelta(hours=1)
    for _ in range(5):
        url = f"http://127.0.0.1:{free_port()}/oauth/token"
        with (
            tokens_at(sandbox, engine, vault, clock, url) as tokens,
            pytest.raises(PipelineError, match="HighLevel"),
        ):
            tokens.get_valid_token(user_id)
    after = stored(engine, user_id)
    assert after["connection_state"] == ConnectionState.IN_DOUBT.value
    assert after["refresh_replayed"] is False
    assert after["failed_attempts"] == doubtful["failed_attempts"]


# Handed over --------------------------------------------------------------------------------------


def post(url: str) -> Answer:
    transport = Transport()
    try:
        request = requests.Request("POST", url, data={"grant_type": "refresh_token"})
        return transport.send(request, path="/oauth/token", timeout=0.5, chunk_size=1)
    finally:
        transport.close()


def test_tls_that_breaks_after_the_request_leaves_it_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, context = certificate(tmp_path)
    asked: list[bytes] = []

    def breaks(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            asked.append(tls.recv(65_536))
            with socket.socket(fileno=tls.detach()) as raw:
                raw.sendall(b"no record of TLS")

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with listening(breaks) as port, pytest.raises(HighLevelError) as caught:
        post(f"https://127.0.0.1:{port}/oauth/token")
    assert caught.value.sent
    assert asked[0].startswith(b"POST /oauth/token")


def test_behind_a_tunnel_that_stands_a_request_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, context = certificate(tmp_path)

    def tunnel(connection: socket.socket) -> None:
        assert connection.recv(65_536).startswith(b"CONNECT endpoint.example.test:443")
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(65_536)

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with listening(tunnel) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        with pytest.raises(HighLevelError) as caught:
            post("https://endpoint.example.test/oauth/token")
    # The certificate is that of 127.0.0.1: the name does not fit, and nothing is sent.
    assert not caught.value.sent
    assert "certificate" in caught.value.detail


@pytest.mark.parametrize("talk", [says(b""), is_silent], ids=["hangs up", "says nothing"])
def test_an_endpoint_that_takes_a_request_and_does_not_answer_leaves_it_in_doubt(
    talk: Talk,
) -> None:
    with listening(talk) as port, pytest.raises(HighLevelError) as caught:
        post(f"http://127.0.0.1:{port}/oauth/token")
    assert caught.value.sent


def test_a_request_over_a_kept_connection_counts_as_handed_over() -> None:
    """The second request of a session makes no connection, and is sent all the same."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(GRANT), GRANT)

    def once(connection: socket.socket) -> None:
        for reply in (answer, b""):
            while not connection.recv(65_536).endswith(b"a=b"):
                pass
            connection.sendall(reply)

    transport = Transport()
    with listening(once) as port:
        url = f"http://127.0.0.1:{port}/oauth/token"
        request = requests.Request("POST", url, data={"a": "b"})
        assert transport.send(request, path="/", timeout=1, chunk_size=1).content == GRANT
        with pytest.raises(HighLevelError) as caught:
            transport.send(request, path="/", timeout=1, chunk_size=1)
    transport.close()
    assert caught.value.sent


# Trace ids (T23) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trace_id",
    ["refresh_token", "a-refresh_token-b", "refresh_tok", "with blank", "short", "x" * 65, 5],
)
def test_a_trace_id_that_repeats_what_was_sent_is_none(trace_id: object) -> None:
    body = json.dumps({"message": "no", "traceId": trace_id}).encode()
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body)
    with listening(says(head + body)) as port:
        response = post(f"http://127.0.0.1:{port}/oauth/token")
    with pytest.raises(HighLevelError) as caught:
        errors.read(errors.Endpoint.TOKEN, response, path="/oauth/token")
    assert caught.value.trace_id is None


# What is sent, and where -----------------------------------------------------------------------


def test_every_request_names_its_agent(clock: Clock) -> None:
    with (
        Scripted(Reply({"callLogs": [], "access_token": "A", "expires_in": 9})) as server,
        open_client(server.url, clock) as client,
    ):
        read_page(client, Secret("A"))
        client.refresh(Secret("R"), "Location")
    assert [asked.headers["User-Agent"] for asked in server.asked] == [USER_AGENT] * 2
    assert server.asked[0].headers["Authorization"] == "Bearer A"
    assert server.asked[0].headers["Accept"] == "application/json"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
def test_requests_to_this_machine_never_go_through_a_proxy(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    message = Message("1", "A headline", (), None, "")
    with Scripted(Reply({"callLogs": [], "data": {}})) as server:
        with open_client(server.url, clock) as client:
            read_page(client, Secret("A"))
        with open_session() as session:
            for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
                session.get(url, timeout=5)
        Webhook(Secret(server.url)).send(message)
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(clock: Clock, status: int) -> None:
    with Scripted(Reply({"callLogs": []})) as elsewhere:
        away = Reply({}, status, {"Location": f"{elsewhere.url}/stolen"})
        with Scripted(away) as server, open_client(server.url, clock) as client:
            for request in (
                lambda: read_page(client, Secret("A")),
                lambda: client.refresh(Secret("R"), "Location"),
                lambda: client.location_token(Secret("A"), "Co", "Loc"),
            ):
                with pytest.raises(HighLevelError) as caught:
                    request()
                assert caught.value.failure is FailureClass.UNKNOWN_ANSWER
        assert elsewhere.asked == []
        assert len(server.asked) == 3


def test_the_netrc_file_is_not_consulted(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login stranger password example-only\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with (
        Scripted(Reply({"callLogs": [], "access_token": "A", "expires_in": 9})) as server,
        open_client(server.url, clock) as client,
    ):
        # The file works: requests itself would send it.
        requests.get(server.url, timeout=5).close()
        read_page(client, Secret("A"))
        client.refresh(Secret("R"), "Location")
    sent = [asked.headers.get("Authorization") for asked in server.asked]
    assert sent[0] is not None
    assert sent[0].startswith("Basic ")
    assert sent[1:] == ["Bearer A", None]


@pytest.mark.parametrize("token", ["with\nnewline-CANARY", "cän-CANARY", "two words-CANARY", ""])
def test_a_token_that_no_header_can_carry_is_rejected_without_being_quoted(
    clock: Clock, token: str
) -> None:
    with Scripted(Reply()) as server, open_client(server.url, clock) as client:
        with pytest.raises(HighLevelError) as caught:
            read_page(client, Secret(token))
        assert caught.value.failure is FailureClass.ACCESS_REJECTED
        assert "CANARY" not in "".join(traceback.format_exception(caught.value))
        assert server.asked == []


def test_a_location_id_cannot_leave_its_place_in_the_path(clock: Clock) -> None:
    with Scripted(Reply({"location": {}})) as server, open_client(server.url, clock) as client:
        client.location(Secret("A"), "a/b?c=d")
    assert server.asked[0].path == "/locations/a%2Fb%3Fc%3Dd"
