"""A client of ``/functions/v1`` that has the key."""

from dataclasses import dataclass
from typing import Any

import requests

from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_SECRET
from voiceai_pipeline.web.api import PREFIX
from voiceai_pipeline_tests.support.installation import API_KEY, HARBOR, Installation

SECRETS = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", SANDBOX_CLIENT_SECRET, API_KEY)


@dataclass
class Caller:
    """A client that has the key."""

    installation: Installation

    def call(self, path: str, body: Any = None, **headers: str) -> requests.Response:
        """POST ``body`` as JSON, or GET without one."""
        answer = requests.request(
            "GET" if body is None else "POST",
            path if path.startswith("http") else f"{self.installation.url}{PREFIX}/{path}",
            json=None if isinstance(body, bytes) else body,
            data=body if isinstance(body, bytes) else None,
            headers={"Authorization": f"Bearer {API_KEY}", **headers},
            timeout=60,
        )
        assert not [secret for secret in SECRETS if secret in answer.text]
        return answer

    def sync(self, **fields: Any) -> requests.Response:
        return self.call("sync-highlevel-calls", {"userId": str(HARBOR), **fields})
