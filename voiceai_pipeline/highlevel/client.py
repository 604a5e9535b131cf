"""HighLevel's endpoints. The client uses the tokens it is given, and never refreshes or stores one.

``HIGHLEVEL_API_VERSION`` selects one of two dialects: ``dated`` (2021-04-15 for Voice AI,
2021-07-28 for the rest, snake_case at the token endpoint) and ``v3`` (camelCase there). Responses
are accepted in both, whatever is configured. POSTs to the token endpoint are never retried here:
``connections/refresh.py`` decides that. Other requests are.
"""

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import requests

from voiceai_pipeline.core.call import Agent
from voiceai_pipeline.core.connection import REQUESTED_SCOPES, SYNC_SCOPE, Location, OAuthToken
from voiceai_pipeline.core.failures import PROVIDER_FAILURES, FailureClass
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import HighLevelSettings
from voiceai_pipeline.highlevel import deep_json, errors
from voiceai_pipeline.highlevel.allow_list import redact_agent
from voiceai_pipeline.highlevel.answer import Answer, whole_or_text
from voiceai_pipeline.highlevel.calls import PAGE_SIZE, Page, as_sent, listing_of
from voiceai_pipeline.highlevel.errors import Endpoint, HighLevelError
from voiceai_pipeline.highlevel.grant import body_of, grant_of, malformed
from voiceai_pipeline.highlevel.rate_limit import RateLimits
from voiceai_pipeline.highlevel.reads import Reads
from voiceai_pipeline.highlevel.redaction import clean
from voiceai_pipeline.highlevel.retry import Retry
from voiceai_pipeline.highlevel.transport import CONNECT_TIMEOUT, Auth, Transport, bearer

READ_TIMEOUT: Final = 30.0
TOKEN_TIMEOUT: Final = 20.0
"""Seconds for a token POST; must be well below the lease that protects it (``refresh.LEASE``)."""

_SCOPES: Final = {
    "/voice-ai/dashboard/call-logs": SYNC_SCOPE,
    "/voice-ai/agents": "voice-ai-agents.readonly",
    "/locations/{id}": "locations.readonly",
    "/oauth/installedLocations": "oauth.readonly",
    "/oauth/installed-locations": "oauth.readonly",
}
"""The scope that each path requires (CONTRACT 2 to 4), for messages about a missing one."""


class HighLevelClient:
    """HighLevel's API for one app. Safe to share between threads.

    Every method raises ``HighLevelError`` for a response that is not a success.
    """

    def __init__(
        self,
        settings: HighLevelSettings,
        *,
        retry: Retry | None = None,
        sleep: Callable[[float], None] | None = None,
        token_timeout: float = TOKEN_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        self._settings = settings
        self._retry = retry or Retry()
        self.reads = Reads()
        self._sleep = sleep or self.reads.pause
        self._token_timeout = token_timeout
        self._read_timeout = read_timeout
        self.limits = RateLimits(self._sleep)
        self._transport = Transport(self.reads)

    def close(self) -> None:
        """Close every connection. The client cannot be used afterwards."""
        self._transport.close()

    def __enter__(self) -> "HighLevelClient":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def without_retries(self) -> "HighLevelClient":
        """A copy of this client that retries nothing but rate limits, sharing its connections: for
        use after waiting for an outage did not help."""
        twin = copy.copy(self)
        twin._retry = self._retry.of_rate_limits()
        return twin

    # Reading -------------------------------------------------------------------------------------

    def call_logs_page(
        self, token: Secret, location_id: str, start: datetime, end: datetime, page: int
    ) -> Page:
        """One page of call logs, oldest first (CONTRACT 2.1)."""
        body = self._get(
            "/voice-ai/dashboard/call-logs",
            token,
            location_id,
            {
                "locationId": location_id,
                "startDate": _epoch_ms(start),
                "endDate": _epoch_ms(end),
                "sortBy": "createdAt",
                "sort": "ascend",
                "page": page,
                "pageSize": PAGE_SIZE,
            },
            _listing,
        )
        items = _list(body, "/voice-ai/dashboard/call-logs", "callLogs")
        return Page(items, errors.total_of(body))

    def call_total(
        self, token: Secret, location_id: str, start: datetime, end: datetime
    ) -> int | None:
        """How many calls HighLevel counts between two instants; None if the response does not say
        (CONTRACT 2.2). Whether the bounds are inclusive is unknown (CONTRACT 2.1)."""
        body = self._get(
            "/voice-ai/dashboard/call-logs",
            token,
            location_id,
            {
                "locationId": location_id,
                "startDate": _epoch_ms(start),
                "endDate": _epoch_ms(end),
                "page": 1,
                # Only the count is needed, but an empty page cannot be requested.
                "pageSize": 1,
            },
        )
        return errors.total_of(body)

    def agents(self, token: Secret, location_id: str) -> Iterator[Agent]:
        """All agents of a location; agents without an id are skipped (CONTRACT 3)."""
        path, number, seen = "/voice-ai/agents", 1, set[str]()
        while True:
            body = self._get(
                path,
                token,
                location_id,
                {"locationId": location_id, "page": number, "pageSize": PAGE_SIZE},
            )
            items, before = list(map(redact_agent, _list(body, path, "agents"))), len(seen)
            for item in items:
                agent_id = _str(item, "id") if isinstance(item, dict) else None
                if agent_id and agent_id not in seen:
                    seen.add(agent_id)
                    yield Agent(
                        agent_id=agent_id,
                        name=str(item.get("agentName") or agent_id),
                        timezone=_str(item, "timezone"),
                        raw=item,
                    )
            # Stop at a page without new agents: it could be repeated forever.
            if len(items) < PAGE_SIZE or len(seen) == before:
                return
            number += 1

    def location(self, token: Secret, location_id: str) -> Location:
        """Name and time zone of a location; no other endpoint returns them (CONTRACT 4.5)."""
        body = self._get("/locations/{id}", token, location_id, {}, id=location_id)
        item = clean(body.get("location"))
        item = item if isinstance(item, dict) else {}
        return Location(
            location_id, _str(item, "name"), _str(item, "timezone"), _str(item, "companyId")
        )

    def installed_locations(self, token: Secret, company_id: str) -> list[Location]:
        """Locations of an agency in which the app is installed; needs a Company token."""
        is_v3 = self._settings.api_version == "v3"
        path = "/oauth/installed-locations" if is_v3 else "/oauth/installedLocations"
        query: dict[str, Any] = {
            "companyId": company_id,
            "appId": self._settings.client_id.partition("-")[0],
            "isInstalled": "true",
        }
        found: dict[str, Location] = {}
        skip = 0
        while True:
            step = {"pageSize": 100} if is_v3 else {"skip": skip, "limit": 100}
            body = self._get(path, token, company_id, query | step)
            items, before = _list(body, path, "items", "locations"), len(found)
            for item in items:
                if isinstance(item, dict) and (location_id := _str(item, "_id")):
                    name = _str(clean(item), "name")
                    found[location_id] = Location(location_id, name, None, company_id)
            skip += len(items)
            pagination = body.get("pagination")
            following = pagination.get("nextPageToken") if isinstance(pagination, dict) else None
            # The page size of the dated API is unknown: a page without new locations is the last.
            if len(found) == before or (is_v3 and not following):
                return list(found.values())
            if is_v3:
                query["pageToken"] = following

    # Granting ------------------------------------------------------------------------------------

    def authorize_url(self, state: str) -> str:
        """URL of the consent page; HighLevel returns ``state`` with the code. Other parameters in
        the query of the configured URL are kept."""
        page = urlsplit(self._settings.auth_url)
        query = dict(parse_qsl(page.query, keep_blank_values=True)) | {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "version_id": self._settings.app_version_id,
            "redirect_uri": self._settings.redirect_uri,
            "scope": " ".join(REQUESTED_SCOPES),
            "state": state,
        }
        return page._replace(query=urlencode(query), fragment="").geturl()

    def exchange_code(self, code: Secret) -> OAuthToken:
        """Exchange an authorization code, which works once, for tokens. If only a refresh token
        arrives, it is refreshed at once."""
        token = self._grant(
            {
                "grant_type": "authorization_code",
                "code": code.reveal(),
                "user_type": "Location",
                "redirect_uri": self._settings.redirect_uri,
            }
        )
        if token.access_token is None and token.refresh_token:
            return self.refresh(token.refresh_token, token.user_type or "Location")
        return token

    def refresh(self, refresh_token: Secret, user_type: str) -> OAuthToken:
        """Exchange a refresh token, which works once, for a new pair (CONTRACT 4.3). No retry."""
        token = self._grant(
            {
                "grant_type": "refresh_token",
                "refresh_token": refresh_token.reveal(),
                "user_type": user_type,
            }
        )
        if token.access_token is None and token.refresh_token == refresh_token:
            raise malformed("/oauth/token", "an echo of what was sent")
        return token

    def ping_token_endpoint(self) -> None:
        """Check that the token endpoint responds. The request has no grant type, so it can neither
        grant nor spend a token.

        Raises:
            HighLevelError: there was no response, or it says that HighLevel is down.
        """
        try:
            self._post(Endpoint.TOKEN, self._settings.token_url, "/oauth/token", {}, {})
        except HighLevelError as error:
            if error.status is None or error.failure in PROVIDER_FAILURES:
                raise

    def location_token(self, token: Secret, company_id: str, location_id: str) -> OAuthToken:
        """Mint a location token from a Company token, which stays valid (CONTRACT 4.4)."""
        is_v3 = self._settings.api_version == "v3"
        path = "/oauth/location-token" if is_v3 else "/oauth/locationToken"

        def once() -> OAuthToken:
            minted = grant_of(
                self._post(
                    Endpoint.API,
                    f"{self._settings.api_url}{path}",
                    path,
                    {"companyId": company_id, "locationId": location_id},
                    self._version(path),
                    bearer(token),
                ),
                path=path,
            )
            if minted.access_token is None:
                raise malformed(path, "no usable access token in the answer")
            return minted

        return self._retry.call(once, self._sleep)

    def _grant(self, fields: Mapping[str, str]) -> OAuthToken:
        fields = {
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret.reveal(),
            **fields,
        }
        headers: dict[str, str] = {}
        if self._settings.api_version == "v3":
            fields = {_camel(name): value for name, value in fields.items()}
            headers["Version"] = "v3"
        path = "/oauth/token"
        body = self._post(Endpoint.TOKEN, self._settings.token_url, path, fields, headers)
        return grant_of(body, path=path)

    # Moving bytes --------------------------------------------------------------------------------

    def _get(
        self,
        template: str,
        token: Secret,
        resource_id: str,
        query: Mapping[str, Any],
        parse: Callable[[Answer], Any] = Answer.json,
        **parts: str,
    ) -> Mapping[str, Any]:
        """GET with retries, within the rate limit of ``resource_id``, a location or company."""
        path = template.format(**{name: quote(value, safe="") for name, value in parts.items()})

        def once() -> Mapping[str, Any]:
            self.limits.wait(resource_id, path=template)
            try:
                answer = self._transport.read(
                    f"{self._settings.api_url}{path}",
                    query,
                    self._version(template),
                    bearer(token),
                    path=template,
                    timeout=self._read_timeout,
                )
            except HighLevelError:
                self.limits.lost(resource_id)
                raise
            self.limits.learn(resource_id, answer.headers)
            return errors.read(
                Endpoint.API,
                answer,
                path=template,
                scope=_SCOPES.get(template, ""),
                parse=parse,
            )

        return self._retry.call(once, self._sleep)

    def _post(
        self,
        endpoint: Endpoint,
        url: str,
        path: str,
        fields: Mapping[str, str],
        headers: Mapping[str, str],
        auth: Auth | None = None,
    ) -> Mapping[str, Any]:
        request = requests.Request("POST", url, data=dict(fields), headers=dict(headers), auth=auth)
        answer = self._transport.send(
            request,
            path=path,
            timeout=self._token_timeout,
            chunk_size=1,  # the response has a few hundred bytes
            deadline=time.monotonic() + CONNECT_TIMEOUT + self._token_timeout,
        )
        return errors.read(endpoint, answer, path=path, parse=lambda it: body_of(it.content))

    def _version(self, path: str) -> dict[str, str]:
        """The ``Version`` header, which all but the dated token endpoint require (CONTRACT 1)."""
        if self._settings.api_version == "v3":
            return {"Version": "v3"}
        return {"Version": "2021-04-15" if path.startswith("/voice-ai/") else "2021-07-28"}


def _listing(answer: Answer) -> Any:
    """The body of a page of calls, with the items unparsed."""
    body = listing_of(answer.content)
    if body is None:
        try:
            body = answer.json()
        except RecursionError:
            body = json.loads(deep_json.cut(answer.text), parse_int=whole_or_text)
        if isinstance(body, dict) and isinstance(body.get("callLogs"), list):
            body["callLogs"] = [as_sent(item) for item in body["callLogs"]]
    return body


def _list(body: Mapping[str, Any], path: str, *names: str) -> list[Any]:
    """The list in a response. A response without it is malformed, never an empty list."""
    items = errors.first(body, *names)
    if isinstance(items, list):
        return items
    raise HighLevelError(
        FailureClass.MALFORMED,
        method="GET",
        path=path,
        status=200,
        reason=f"no list {' or '.join(names)}",
    )


def _epoch_ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _str(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and value else None
