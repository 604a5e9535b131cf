"""A small client of the sandbox for its own tests, and a clock that the test sets.

Not the pipeline's client: what is tested here must not depend on it.
"""

import datetime as dt
import urllib.parse
from typing import Any

import requests

from voiceai_pipeline.sandbox.cast import (
    AGENT_SCOPE,
    CALL_LOG_SCOPE,
    DEMO_LOCATIONS,
    LOCATION_SCOPE,
    SANDBOX_APP_VERSION_ID,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
)
from voiceai_pipeline.sandbox.demo import authorize
from voiceai_pipeline.sandbox.server import RunningSandbox

CALL_LOGS = "/voice-ai/dashboard/call-logs"
REDIRECT = "http://localhost:9999/oauth/callback"
SCOPES = f"{CALL_LOG_SCOPE} {AGENT_SCOPE} {LOCATION_SCOPE} oauth.readonly oauth.write"
NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)  # a Friday
A_DAY = dt.date(2026, 11, 17)
SECOND = dt.timedelta(seconds=1)

HARBOR, MAPLE, QUIET = DEMO_LOCATIONS[:3]


class Clock:
    """Time as the test says."""

    def __init__(self, now: dt.datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, **amount: float) -> None:
        self.now += dt.timedelta(**amount)


class Client:
    """Speaks one dialect of the API to a running sandbox."""

    def __init__(self, sandbox: RunningSandbox, *, v3: bool = False) -> None:
        self.sandbox = sandbox
        self.v3 = v3
        self.session = requests.Session()
        self.tokens: dict[str, Any] = {}

    def authorize_url(self, **more: str) -> str:
        query = {
            "response_type": "code",
            "client_id": SANDBOX_CLIENT_ID,
            "version_id": SANDBOX_APP_VERSION_ID,
            "redirect_uri": REDIRECT,
            "scope": SCOPES,
            "state": "st4te",
            **more,
        }
        return f"{self.sandbox.url}/v2/oauth/chooselocation?{urllib.parse.urlencode(query)}"

    def code(self, target: str, **more: str) -> str:
        callback = authorize(self.session, self.authorize_url(**more), target)
        return urllib.parse.parse_qs(urllib.parse.urlsplit(callback).query)["code"][0]

    def token(self, **fields: str) -> requests.Response:
        """POST /oauth/token; `fields` in snake_case, whatever the dialect."""
        body = {"client_id": SANDBOX_CLIENT_ID, "client_secret": SANDBOX_CLIENT_SECRET, **fields}
        body = {key: value for key, value in body.items() if value}
        headers = {}
        if self.v3:
            body = {camel(key): value for key, value in body.items()}
            headers["Version"] = "v3"
        return self.session.post(
            f"{self.sandbox.url}/oauth/token", data=body, headers=headers, timeout=60
        )

    def connect(self, target: str, **more: str) -> "Client":
        """Authorize and trade the code; the tokens are in `tokens`."""
        answer = self.token(
            grant_type="authorization_code", code=self.code(target, **more), redirect_uri=REDIRECT
        )
        answer.raise_for_status()
        self.tokens = answer.json()
        return self

    @property
    def access(self) -> str:
        return str(self.tokens["accessToken" if self.v3 else "access_token"])

    @property
    def refresh_token(self) -> str:
        return str(self.tokens["refreshToken" if self.v3 else "refresh_token"])

    def refresh(self, token: str | None = None) -> requests.Response:
        return self.token(grant_type="refresh_token", refresh_token=token or self.refresh_token)

    def request(self, method: str, path: str, **keywords: Any) -> requests.Response:
        """Any request with this token and dialect; `headers` overwrite, None leaves one out."""
        headers: dict[str, str | None] = {
            "Authorization": f"Bearer {self.access}" if self.tokens else None,
            "Version": "v3" if self.v3 else "2021-04-15",
        }
        headers |= keywords.pop("headers", {})
        keywords.setdefault("timeout", 60)
        return self.session.request(method, self.sandbox.url + path, headers=headers, **keywords)

    def get(self, path: str, **params: Any) -> requests.Response:
        return self.request("GET", path, params=params)

    def calls(self, location_id: str, **params: Any) -> requests.Response:
        return self.get(CALL_LOGS, locationId=location_id, **params)

    def day(self, location_id: str, day: dt.date, **params: Any) -> list[dict[str, Any]]:
        """Every call of a UTC day, page by page."""
        found: list[dict[str, Any]] = []
        for page in range(1, 1000):
            answer = self.calls(
                location_id, **window(day), page=page, pageSize=50, **ASCENDING, **params
            )
            answer.raise_for_status()
            found += answer.json()["callLogs"]
            if len(answer.json()["callLogs"]) < 50:
                break
        return found

    def control(self, verb: str, **fields: Any) -> requests.Response:
        answer = self.session.post(f"{self.sandbox.url}/sandbox/{verb}", json=fields, timeout=60)
        answer.raise_for_status()
        return answer

    def fault(self, location_id: str, kind: str, **fields: Any) -> None:
        self.control("faults", location_id=location_id, kind=kind, **fields)


ASCENDING = {"sortBy": "createdAt", "sort": "ascend"}


def camel(snake: str) -> str:
    head, *rest = snake.split("_")
    return head + "".join(word.capitalize() for word in rest)


def ms(moment: dt.datetime) -> int:
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)


def window(day: dt.date) -> dict[str, int]:
    """The first and last millisecond of a UTC day."""
    start = ms(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC))
    return {"startDate": start, "endDate": start + 86_400_000 - 1}
