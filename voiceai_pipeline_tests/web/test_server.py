"""An application on a socket, as the pages and the sandbox rely on it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from starlette.responses import PlainTextResponse

from voiceai_pipeline.web import server
from voiceai_pipeline.web.server import listen, serve_in_thread


@contextmanager
def greeting() -> Iterator[str]:
    with serve_in_thread(PlainTextResponse("hello"), listen("127.0.0.1", 0), "greeter") as url:
        yield url


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


def test_too_many_open_connections_get_503_until_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 2)
    with greeting() as url, requests.Session() as first:
        assert first.get(url, timeout=60).status_code == 200  # and stays open
        assert requests.get(url, timeout=60).status_code == 503
        first.close()
        assert requests.get(url, timeout=60).status_code == 200
