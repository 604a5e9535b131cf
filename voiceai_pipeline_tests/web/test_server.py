"""An application on a socket, as the pages and the sandbox rely on it."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from starlette.responses import PlainTextResponse

from voiceai_pipeline.web import connection_limits, server
from voiceai_pipeline.web.server import listen, serve_in_thread
from voiceai_pipeline_tests.support.installation import Installation


@contextmanager
def greeting() -> Iterator[str]:
    with serve_in_thread(PlainTextResponse("hello"), listen("127.0.0.1", 0), "greeter") as url:
        yield url


def half_open(url: str, sent: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n") -> socket.socket:
    """A connection whose header never ends."""
    client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)
    client.sendall(sent)
    return client


def test_nagles_algorithm_is_off() -> None:
    """asyncio disables it only if the socket names its protocol."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_it_answers_until_the_with_block_ends_and_says_first_that_it_stops() -> None:
    stopped: list[bool] = []
    listener = listen("127.0.0.1", 0)
    hello = PlainTextResponse("hello")
    with serve_in_thread(hello, listener, "greeter", stopping=lambda: stopped.append(True)) as url:
        answer = requests.get(url, timeout=60)
        assert stopped == []

    assert answer.text == "hello"
    assert "server" not in answer.headers
    assert stopped == [True]
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=60)


def test_headers_without_an_end_are_refused_at_the_limit() -> None:
    with greeting() as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * server._MAX_HEAD)
            answer = client.recv(1024)

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_of_too_many_connections_the_one_that_waited_longest_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_limits, "MAX_CONNECTIONS", 20)
    with greeting() as url, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(half_open(url)) for _ in range(50)]
        assert requests.get(url, timeout=30).text == "hello"
        assert [_is_closed(client) for client in clients[:30]] == [True] * 30


HALF_A_HEADER = b"GET / HTTP/1.1\r\nHost: x\r\n"
HALF_A_BODY = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\npassword="


@pytest.mark.parametrize("sent", [HALF_A_HEADER, HALF_A_BODY], ids=["header", "body"])
def test_a_thousand_half_open_connections_do_not_keep_others_out(
    installation: Installation, sent: bytes
) -> None:
    """The health of the whole application is answered within a second throughout; of three times
    the shortest counts, for a busy machine may stop this process for longer."""

    def takes() -> float:
        answers = [requests.get(f"{installation.url}/health", timeout=30) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {200}
        return min(answer.elapsed.total_seconds() for answer in answers)

    with contextlib.ExitStack() as stack:
        for number in range(1000):
            stack.enter_context(half_open(installation.url, sent))
            if number % 100 == 0:
                assert takes() < 1
        assert takes() < 1


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_whole_header_is_closed_in_time(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection_limits, "HEAD_TIMEOUT", 0.1)
    with greeting() as url, half_open(url, sent) as first, half_open(url, b"") as second:
        assert _is_closed(first)
        # Also where one request was answered, and the next does not end.
        with contextlib.suppress(ConnectionError):
            second.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP")
        assert _is_closed(second)


def _is_closed(client: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        while client.recv(1024):
            pass
    return True
