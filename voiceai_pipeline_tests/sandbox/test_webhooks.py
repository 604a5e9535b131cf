"""What the sandbox announces, and how often."""

import json
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from voiceai_pipeline.core.connection import REQUESTED_SCOPES
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.highlevel.webhook import is_signed
from voiceai_pipeline.sandbox.webhooks import WebhookSender
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.highlevel import REDIRECT_URI
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.synced_calls import HARBOR

KEYS = Settings.load({}).highlevel.webhook_keys


class Receiver:
    """Takes messages; refuses the first few with these statuses."""

    def __init__(self, refusals: Sequence[int] = ()) -> None:
        self.messages: list[dict[str, Any]] = []
        self.attempts = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert is_signed(body, self.headers["X-GHL-Signature"], KEYS)
                status = [*refusals, *[200] * 20][receiver.attempts]
                receiver.attempts += 1
                if status == 200:
                    receiver.messages.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def world() -> World:
    world = World()
    world.exchange(
        world.authorize(HARBOR, DEMO["Harbor Dental"], list(REQUESTED_SCOPES), REDIRECT_URI),
        REDIRECT_URI,
    )
    world.outbox.take()
    return world


@contextmanager
def sent(world: World, seed: int = 0, refusals: Sequence[int] = ()) -> Iterator[Receiver]:
    receiver = Receiver(refusals)
    chance = random.Random(seed)  # noqa: S311 - test data
    sender = WebhookSender(world, receiver.url, chance, backoff=0.01)
    sender.start()
    yield receiver
    sender.stop()
    receiver.close()


def test_a_calls_end_is_announced_with_the_fields_of_the_call(world: World) -> None:
    with sent(world) as receiver:
        call = world.calls.add(HARBOR)
        wait_until(lambda: bool(receiver.messages))

    told = receiver.messages[0]
    assert (told["type"], told["id"], told["locationId"]) == ("VoiceAiCallEnd", call["id"], HARBOR)
    assert "isAgentDeleted" not in told


def test_a_location_without_the_app_announces_nothing(world: World) -> None:
    other = DEMO["Pine Realty"].location_id
    assert other is not None
    with sent(world) as receiver:
        world.calls.add(other)
        world.calls.add(HARBOR)
        wait_until(lambda: bool(receiver.messages))

    assert {told["locationId"] for told in receiver.messages} == {HARBOR}


def test_a_refused_message_is_sent_again_until_it_is_taken(world: World) -> None:
    with sent(world, refusals=(503, 302, 404)) as receiver:
        world.calls.add(HARBOR)
        wait_until(lambda: bool(receiver.messages))

    assert receiver.attempts >= 4


def test_messages_are_lost_while_delivery_is_paused(world: World) -> None:
    world.outbox.is_paused = True
    with sent(world) as receiver:
        world.calls.add(HARBOR)
        wait_until(lambda: world.outbox.counts["lost"] == 1)
        world.outbox.is_paused = False
        later = world.calls.add(HARBOR)
        wait_until(lambda: bool(receiver.messages))

    assert {told["id"] for told in receiver.messages} == {later["id"]}


def test_installs_and_removals_are_announced_with_location_and_agency(world: World) -> None:
    with sent(world) as receiver:
        world.revoke(HARBOR)
        wait_until(lambda: bool(receiver.messages))

    told = receiver.messages[0]
    assert (told["type"], told["locationId"]) == ("UNINSTALL", HARBOR)
    assert told["companyId"] == DEMO["Harbor Dental"].company_id
