"""HighLevel's client on the sandbox or a scripted server, and the sandbox's grants."""

import datetime as dt
from dataclasses import dataclass, field

from voiceai_pipeline.core.connection import REQUESTED_SCOPES, OAuthToken
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import HighLevelSettings
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.sandbox.cast import (
    SANDBOX_APP_VERSION_ID,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
)
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import NOON, Clock
from voiceai_pipeline_tests.support.demo_users import DEMO

REDIRECT_URI = "http://127.0.0.1:8791/oauth/callback"
HARBOR = DEMO["Harbor Dental"].installs_on
AGENCY = DEMO["Northwind Agency"]
CANARIES = ("SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", "SANDBOX-CLIENT-SECRET")
CALL_LOGS = "/voice-ai/dashboard/call-logs"


def highlevel_settings(url: str, api_version: str = "dated") -> HighLevelSettings:
    """The sandbox's app at ``url``."""
    return HighLevelSettings(
        client_id=SANDBOX_CLIENT_ID,
        app_version_id=SANDBOX_APP_VERSION_ID,
        client_secret=Secret(SANDBOX_CLIENT_SECRET),
        redirect_uri=REDIRECT_URI,
        auth_url=f"{url}/v2/oauth/chooselocation",
        token_url=f"{url}/oauth/token",
        api_url=url,
        api_version=api_version,
        is_sandbox=True,
    )


def open_client(
    url: str, clock: Clock, api_version: str = "dated", timeout: float = 30
) -> HighLevelClient:
    """A client whose retries cost simulated time only."""
    return HighLevelClient(
        highlevel_settings(url, api_version),
        retry=Retry(attempts=3),
        sleep=clock.sleep,
        token_timeout=timeout,
        read_timeout=timeout,
    )


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
