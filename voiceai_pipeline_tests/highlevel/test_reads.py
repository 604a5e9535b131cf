"""A process that is asked to stop gives up its reads and nothing else, on real sockets."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from voiceai_pipeline.core.connection import OAuthToken
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.errors import HighLevelError
from voiceai_pipeline_tests.support.highlevel import highlevel_settings, read_page
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.scripted_server import Asked, Reply, Scripted

TOKEN = Secret("at-1")
PAIR = {"access_token": "at-2", "refresh_token": "rt-2", "expires_in": 86399}


@pytest.fixture
def answering() -> Iterator[threading.Event]:
    """Lets a server that stalls answer."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def stalled(answering: threading.Event) -> Iterator[Scripted]:
    """A HighLevel that answers one request, and others when it is told to."""

    def reply(asked: Asked) -> Reply:
        if asked is not server.asked[0]:
            answering.wait(60)
        return Reply(PAIR if asked.method == "POST" else {"callLogs": [], "total": 0})

    with Scripted(reply) as server:
        yield server
        answering.set()


def test_interrupted_reads_end_at_once_and_an_exchange_is_finished(
    stalled: Scripted, answering: threading.Event
) -> None:
    with HighLevelClient(highlevel_settings(stalled.url)) as client, ThreadPoolExecutor(3) as pool:

        def read_and_refresh() -> OAuthToken:
            """The same thread, so that a connection could be used for both."""
            read_page(client, TOKEN)
            return client.refresh(Secret("rt-1"), "Location")

        exchange = pool.submit(read_and_refresh)
        wait_until(lambda: len(stalled.asked) == 2)
        read = [pool.submit(read_page, client, TOKEN) for _ in range(2)]
        wait_until(lambda: len(stalled.asked) == 4)
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt), client.reads.interruptible():
            raise KeyboardInterrupt
        for one in read:
            with pytest.raises(HighLevelError, match="this process is stopping") as refused:
                one.result(10)
            assert refused.value.sent is False
        assert time.monotonic() - begun < 5
        assert not exchange.done()
        answering.set()
        assert exchange.result(10).refresh_token == Secret("rt-2")
        with pytest.raises(HighLevelError, match="this process is stopping"):
            read_page(client, TOKEN)
    assert len(stalled.asked) == 4  # neither a retry nor another read


def test_a_failure_gives_up_no_read(stalled: Scripted) -> None:
    with HighLevelClient(highlevel_settings(stalled.url)) as client:
        with pytest.raises(ValueError, match="ours"), client.reads.interruptible():
            raise ValueError("ours")
        assert read_page(client, TOKEN) == 0


def test_a_pause_ends_when_reads_are_given_up(stalled: Scripted) -> None:
    with HighLevelClient(highlevel_settings(stalled.url)) as client, ThreadPoolExecutor(1) as pool:
        paused = pool.submit(client.reads.pause, 60)
        client.reads.stop()
        paused.result(5)
