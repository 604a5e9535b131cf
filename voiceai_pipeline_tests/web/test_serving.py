"""An application on a socket: what the sandbox and the page rely on alike."""

import socket

import pytest
import requests
from starlette.responses import PlainTextResponse

from voiceai_pipeline.web.serving import listen, serve_in_thread


def test_answers_are_not_held_back_for_forty_milliseconds() -> None:
    """asyncio turns Nagle's algorithm off where the protocol of the socket is named."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_it_answers_until_it_is_left_and_then_says_that_it_stops() -> None:
    stopped: list[bool] = []
    listener = listen("127.0.0.1", 0)
    hello = PlainTextResponse("hello")
    with serve_in_thread(hello, listener, "greeter", stopping=lambda: stopped.append(True)) as url:
        answer = requests.get(url, timeout=10)
        assert stopped == []

    assert answer.text == "hello"
    assert "server" not in answer.headers
    assert stopped == [True]
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=10)
