"""What tests of HighLevel's client share: a location and an agency of the sandbox, their grants."""

import datetime as dt
from dataclasses import dataclass, field

from voiceai_pipeline.core.connection import REQUESTED_SCOPES, OAuthToken
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.conftest import (
    DEMO,
    NOON,
    REDIRECT_URI,
)

HARBOR = DEMO["Harbor Dental"].installs_on
AGENCY = DEMO["Northwind Agency"]
CANARIES = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", "SANDBOX-CLIENT-SECRET")
CALL_LOGS = "/voice-ai/dashboard/call-logs"


def code_for(sandbox: RunningSandbox, resource: str) -> Secret:
    scopes = list(REQUESTED_SCOPES)
    return Secret(sandbox.world.authorize(resource, None, scopes, REDIRECT_URI))


def grant_for(sandbox: RunningSandbox, client: HighLevelClient, resource: str) -> OAuthToken:
    return client.exchange_code(code_for(sandbox, resource))


def read_page(client: HighLevelClient, token: Secret, location_id: str = HARBOR) -> int:
    page = client.call_logs_page(token, location_id, NOON - dt.timedelta(days=1), NOON, 1)
    return len(page.items)


@dataclass
class Pauses:
    """Remembers how long was slept, and does not sleep."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
