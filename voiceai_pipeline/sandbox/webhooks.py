"""Sends webhook messages as HighLevel does (CONTRACT 13): signed, at least once, in any order.

A call's end is announced when the call appears, sometimes before its summary does. Some messages
arrive twice or late. A message that fails is retried with backoff, up to twelve attempts in all.
While delivery is paused, messages are lost, as with HighLevel.
"""

import base64
import hashlib
import heapq
import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from voiceai_pipeline.sandbox.calls import iso
from voiceai_pipeline.sandbox.cast import SANDBOX_APP_ID, SANDBOX_APP_VERSION_ID
from voiceai_pipeline.sandbox.world import World

SIGNING_KEY: Final = Ed25519PrivateKey.from_private_bytes(
    hashlib.sha256(b"voiceai sandbox webhooks").digest()
)
"""Not a secret: only an installation that uses the sandbox accepts its signatures."""

_ATTEMPTS: Final = 12
_LONGEST_BACKOFF_S: Final = 60.0
_TIMEOUT_S: Final = 10.0
_TICK_S: Final = 0.25
_LOOK_BACK_MS: Final = 5_000
_TWICE: Final = 0.05
_LATE: Final = 0.05


def signature(body: bytes) -> str:
    """The value of ``X-GHL-Signature``."""
    return base64.b64encode(SIGNING_KEY.sign(body)).decode()


def message(kind: str, now_ms: int, **fields: Any) -> dict[str, Any]:
    """A flat body with the envelope seen in real ones (CONTRACT 13.2)."""
    return {
        "type": kind,
        "timestamp": iso(now_ms),
        "webhookId": str(uuid.uuid4()),
        "appId": SANDBOX_APP_ID,
        "versionId": SANDBOX_APP_VERSION_ID,
        **fields,
    }


class WebhookSender:
    """Announces the calls and removals of a world to one URL, in a thread of its own.

    Args:
        chance: decides which messages arrive twice or late.
        backoff: seconds until the first retry; each further one waits twice as long.
    """

    def __init__(
        self,
        world: World,
        url: str,
        chance: random.Random | None = None,
        *,
        backoff: float = 1.0,
    ) -> None:
        self._world = world
        self._url = url
        self._backoff = backoff
        self._chance = chance or random.Random()  # noqa: S311 - no secret depends on it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._begun_ms = self._looked_at_ms = world.now_ms()
        self._announced: dict[tuple[str, str], int] = {}
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self._session = requests.Session()
        self._session.trust_env = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_TIMEOUT_S)
        self._session.close()

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            for body in self._news():
                self._post_later(body)
            self._deliver_due()

    def _news(self) -> list[dict[str, Any]]:
        """The messages about what has happened since the last call."""
        now = self._world.now_ms()
        # A call may appear a few moments after its ``createdAt``.
        since = max(self._begun_ms, self._looked_at_ms - _LOOK_BACK_MS)
        self._looked_at_ms = now
        self._announced = {one: at for one, at in self._announced.items() if at >= since}
        events = self._world.outbox.take()
        messages = [message(kind, now, **self._ids(resource)) for kind, resource in events]
        with_app = [user for user in self._world.users if self._world.is_connected(user)]
        installed = {one for user in with_app for one in (user.location_id, user.installs_on)}
        for location in self._world.locations.values():
            if not {location.id, location.company_id} & installed:
                continue
            for call in self._world.calls.outlines(location, since, now):
                if (location.id, call.id) in self._announced:
                    continue
                self._announced[location.id, call.id] = call.created_ms
                told = dict(self._world.calls.body(location, call))
                told.pop("isAgentDeleted", None)
                messages.append(message("VoiceAiCallEnd", now, locationId=location.id, **told))
        return messages

    def _ids(self, resource: str) -> dict[str, str]:
        location = self._world.locations.get(resource)
        if location is None:
            return {"companyId": resource}
        return {"locationId": resource, "companyId": location.company_id}

    def _post_later(self, body: Mapping[str, Any]) -> None:
        if self._world.outbox.is_paused:
            self._world.outbox.counts["lost"] += 1
            return
        raw = json.dumps(body).encode()
        delay = self._chance.uniform(1, 20) if self._chance.random() < _LATE else 0.0
        self._push(raw, 0, delay)
        if self._chance.random() < _TWICE:
            self._push(raw, 0, delay + self._chance.uniform(0, 5))

    def _push(self, raw: bytes, attempt: int, delay: float) -> None:
        entry = (time.monotonic() + delay, next(self._numbers), attempt, raw)
        heapq.heappush(self._queue, entry)

    def _deliver_due(self) -> None:
        while self._queue and self._queue[0][0] <= time.monotonic() and not self._stop.is_set():
            _, _, attempt, raw = heapq.heappop(self._queue)
            if self._post(raw):
                self._world.outbox.counts["delivered"] += 1
            elif attempt + 1 < _ATTEMPTS:
                backoff = min(self._backoff * 2**attempt, _LONGEST_BACKOFF_S)
                self._push(raw, attempt + 1, backoff * self._chance.uniform(0.5, 1.5))
            else:
                self._world.outbox.counts["given up"] += 1

    def _post(self, raw: bytes) -> bool:
        headers = {"Content-Type": "application/json", "X-GHL-Signature": signature(raw)}
        try:
            answer = self._session.post(
                self._url, data=raw, headers=headers, timeout=_TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException:
            return False
        return answer.status_code // 100 == 2  # anything else is retried (CONTRACT 13.4)
