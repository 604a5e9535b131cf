"""The state of the sandbox: connected users, injected faults, and the calls that exist now.

`World` is what the HTTP endpoints, the control endpoints and the tests use. It holds the only lock
and, given a file, survives a restart. Its `calls` is a `CallBook`. There is no HTTP here (see
`app`).
"""

import contextlib
import datetime as dt
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Self

from voiceai_pipeline.sandbox.call_book import CallBook
from voiceai_pipeline.sandbox.calls import to_ms
from voiceai_pipeline.sandbox.cast import (
    DEMO_LOCATIONS,
    DEMO_USERS,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
    DemoUser,
    Envelope,
    SandboxAgent,
    SandboxLocation,
)
from voiceai_pipeline.sandbox.faults import Fault, FaultBook, bad_day
from voiceai_pipeline.sandbox.limits import RateLimits
from voiceai_pipeline.sandbox.oauth import ACCESS_LIFETIME_S, Grant, OAuth, RefusedError, TokenPair
from voiceai_pipeline.sandbox.outbox import Outbox
from voiceai_pipeline.sandbox.private_tokens import PrivateTokens
from voiceai_pipeline.sandbox.record import RecordedRequest

__all__ = [
    "DEMO_LOCATIONS",
    "DEMO_USERS",
    "SANDBOX_CLIENT_ID",
    "SANDBOX_CLIENT_SECRET",
    "DemoUser",
    "Fault",
    "RecordedRequest",
    "SandboxAgent",
    "SandboxLocation",
    "World",
    "utc_now",
]

DateEnds = Literal["inclusive", "exclusive"]

_REMEMBERED_REQUESTS = 50_000
_STATE_VERSION = 1


def utc_now() -> dt.datetime:
    """The real time, aware."""
    return dt.datetime.now(dt.UTC)


class World:
    """The sandbox's whole state. Methods are safe to call from any thread.

    With a `state_file` every change is saved at once, and an existing file is loaded. A new state
    file starts with the demo's troubles unless `demo_troubles` says otherwise; a world without a
    file starts without them.

    Raises:
        ValueError: the file is not a state file of this sandbox.
    """

    def __init__(
        self,
        seed: int = 1,
        clock: Callable[[], dt.datetime] = utc_now,
        state_file: Path | None = None,
        *,
        users: tuple[DemoUser, ...] = DEMO_USERS,
        locations: tuple[SandboxLocation, ...] = DEMO_LOCATIONS,
        history_start: dt.date = dt.date(2024, 1, 1),
        demo_troubles: bool | None = None,
        zone: str = "UTC",
    ) -> None:
        self.seed = seed
        self.zone = zone
        self.clock = clock
        self.state_file = state_file
        self.users = users
        self.locations = {location.id: location for location in locations}
        self.date_ends: DateEnds = "inclusive"
        self.limits = RateLimits()
        self.requests: list[RecordedRequest] = []
        self.stopping = False
        self._lock = threading.RLock()
        self._faults = FaultBook()
        self._oauth = OAuth(
            now=lambda: self.clock().timestamp(),
            lifetime=lambda resource: self._lifetimes.get(resource, ACCESS_LIFETIME_S),
        )
        self._paused: set[str] = set()
        self._revoked: set[str] = set()
        self._fully_granting: set[str] = set()
        self._envelopes: dict[str, Envelope] = {}
        self._lifetimes: dict[str, int] = {}
        self.calls = CallBook(
            seed,
            self.locations,
            history_start,
            lambda: self.clock(),
            changing=self._changing,
            reading=self.locked,
        )
        self.private_tokens = PrivateTokens(self.locations, self._changing)
        self.outbox = Outbox()
        self._request_count = 0
        if state_file is not None:
            state_file.parent.mkdir(parents=True, exist_ok=True)
        if state_file is not None and state_file.exists():
            self.load(state_file.read_text(encoding="utf-8"))
        elif demo_troubles or (demo_troubles is None and state_file is not None):
            self.with_demo_troubles()

    # --- troubles -------------------------------------------------------------------------

    def with_demo_troubles(self) -> Self:
        """Give the bad-day location its bad day."""
        for user in self.users:
            if user.role == "bad_day" and user.location_id:
                self.add_fault(bad_day(user.location_id, self.clock(), self.zone))
        return self

    @property
    def bad_day(self) -> dt.date | None:
        """The day, in `zone`, that fails for some location; None when all are healed."""
        bad = (fault.day for fault in self.faults if fault.kind == "server_error" and fault.day)
        return next(bad, None)

    @property
    def faults(self) -> tuple[Fault, ...]:
        with self._lock:
            return self._faults.rules

    def add_fault(self, fault: Fault) -> Fault:
        """Add a rule; the result carries its number."""
        with self._changing():
            return self._faults.add(fault)

    def clear_faults(self, location_id: str | None = None) -> int:
        """Remove the rules of one location (or all); returns how many."""
        with self._changing():
            return self._faults.clear(location_id)

    def fire_faults(
        self, location_ids: set[str], path: str, window: tuple[float, float] | None
    ) -> list[Fault]:
        """The rules that fire for this request. Counts down those with a `times`."""
        with self._lock:
            fired, changed = self._faults.fire(location_ids, path, window)
            if changed:
                self._save()
            return fired

    def heal(self, location_id: str) -> int:
        """Remove every fault of a location; returns how many."""
        return self.clear_faults(location_id)

    def pause(self, resource: str) -> None:
        """Pause an unpaid location: `Location is not active`. Its tokens stay valid for later."""
        with self._changing():
            self._paused.add(resource)

    def resume(self, resource: str) -> None:
        with self._changing():
            self._paused.discard(resource)

    @property
    def paused(self) -> list[str]:
        """Every paused location and company."""
        return sorted(self._paused.copy())

    @property
    def revoked(self) -> list[str]:
        """Every location and company that was revoked and not authorized since."""
        return sorted(self._revoked.copy())

    def is_paused(self, resource: str) -> bool:
        return resource in self._paused

    def revoke(self, resource: str) -> None:
        """Uninstall the app: every token of the location or company becomes invalid."""
        with self._changing():
            self._oauth.revoke(resource)
            self._revoked.add(resource)
            self.outbox.add("UNINSTALL", resource)

    def is_revoked(self, resource: str) -> bool:
        """Whether it was revoked and not authorized since."""
        with self._lock:
            return resource in self._revoked

    def grant_scopes(self, location_id: str) -> None:
        """Let this location grant every requested scope from the next authorization on."""
        with self._changing():
            self._fully_granting.add(location_id)

    def expire_access(self, resource: str) -> None:
        """Expire the access tokens of a location or company now; refresh tokens stay valid."""
        with self._changing():
            self._oauth.expire_access(resource)

    def set_token_lifetime(self, resource: str, seconds: int) -> None:
        """Set the lifetime of access tokens issued for this resource from now on."""
        with self._changing():
            self._lifetimes[resource] = seconds

    def set_envelope(self, location_id: str, envelope: Envelope) -> None:
        """Answer the call-log list in the documented shape, the wild one, or without a total
        (CONTRACT 2.2)."""
        with self._changing():
            self._envelopes[location_id] = envelope

    def envelope(self, location: SandboxLocation) -> Envelope:
        with self._lock:
            return self._envelopes.get(location.id, location.envelope)

    @property
    def grace_seconds(self) -> float:
        """How long a spent refresh token still gets the same pair (CONTRACT 4.3); 0: never."""
        return self._oauth.grace_seconds

    @grace_seconds.setter
    def grace_seconds(self, seconds: float) -> None:
        with self._changing():
            self._oauth.grace_seconds = seconds

    # --- authorizations and tokens --------------------------------------------------------

    def authorize(
        self, resource: str, user: DemoUser | None, scopes: list[str], redirect_uri: str
    ) -> str:
        """What pressing Allow does: a code for this location or company. Clears `revoked`.

        Raises:
            KeyError: no such location or company.
        """
        with self._changing():
            grant = self._grant(resource, user, scopes)
            self._revoked.discard(grant.resource)
            self.outbox.add("INSTALL", resource)
            return self._oauth.issue_code(grant, redirect_uri)

    def _grant(self, resource: str, user: DemoUser | None, scopes: list[str]) -> Grant:
        candidates = [u for u in self.users if resource in (u.location_id, u.company_id)]
        member = user if user in candidates else next(iter(candidates), None)
        withheld: tuple[str, ...] = ()
        if member is not None and resource not in self._fully_granting:
            withheld = member.withheld_scopes
        granted = tuple(scope for scope in scopes if scope not in withheld)
        user_id = member.highlevel_user_id if member else "UsrSandbox0000000000"
        location = self.locations.get(resource)
        if location is not None:
            return Grant("Location", location.company_id, location.id, user_id, granted)
        approved = tuple(one.id for one in self.locations.values() if one.company_id == resource)
        if not approved:
            raise KeyError(resource)
        return Grant("Company", resource, None, user_id, granted, approved)

    def exchange(self, code: str, redirect_uri: str | None) -> TokenPair:
        """Exchange a code for tokens.

        Raises:
            RefusedError: with the documented message.
        """
        with self._changing():
            self._refuse_if_paused(self._oauth.grant_of_code(code))
            return self._oauth.exchange(code, redirect_uri)

    def refresh(self, token: str) -> TokenPair:
        """Spend a refresh token; a paused location refuses without spending it.

        Raises:
            RefusedError: with the documented message.
        """
        with self._changing():
            self._refuse_if_paused(self._oauth.grant_of_refresh(token))
            return self._oauth.refresh(token)

    def mint_location_token(self, company: Grant, location_id: str) -> TokenPair:
        """A pair for a location, from its company's token (CONTRACT 4.4)."""
        grant = Grant("Location", company.company_id, location_id, company.user_id, company.scopes)
        with self._changing():
            self._refuse_if_paused(grant)
            return self._oauth.mint(grant)

    def _refuse_if_paused(self, grant: Grant | None) -> None:
        if grant is not None and grant.resource in self._paused:
            raise RefusedError("Location is not active")

    def grant_of(self, *, access: str = "", refresh: str = "", code: str = "") -> Grant | None:
        """The grant of a token or code; None if it is not valid."""
        with self._lock:
            if access:
                return self._oauth.grant_of_access(access)
            if refresh:
                return self._oauth.grant_of_refresh(refresh)
            return self._oauth.grant_of_code(code)

    def is_connected(self, user: DemoUser) -> bool:
        """Whether this user holds a refresh token that still works."""
        with self._lock:
            return self._oauth.connected(user.installs_on, user.highlevel_user_id)

    # --- time -----------------------------------------------------------------------------

    def now_ms(self) -> int:
        return to_ms(self.clock())

    def today(self) -> dt.date:
        """The current UTC day."""
        return self.clock().astimezone(dt.UTC).date()

    # --- record and state -----------------------------------------------------------------

    def record(self, request: RecordedRequest) -> None:
        """Record a request; very old ones are dropped."""
        with self._lock:
            self.requests.append(request)
            if len(self.requests) > _REMEMBERED_REQUESTS:
                del self.requests[: _REMEMBERED_REQUESTS // 10]

    def stop(self) -> None:
        """End stalled answers, so that the server can stop."""
        self.stopping = True

    def next_request_number(self) -> int:
        with self._lock:
            self._request_count += 1
            return self._request_count

    def clear_requests(self) -> None:
        self.requests.clear()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, for callers that use `limits` or read the edits of calls."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            yield
            self._save()

    def _save(self) -> None:
        if self.state_file is None:
            return
        draft = self.state_file.with_name(self.state_file.name + ".tmp")
        # The file has tokens: create it private, because a later chmod would leave a gap.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(self.dump())
        draft.replace(self.state_file)

    def dump(self) -> str:
        """Tokens, faults and changed calls, as the text of a state file."""
        with self._lock:
            return json.dumps(
                {
                    "version": _STATE_VERSION,
                    "oauth": self._oauth.as_json(),
                    "grace_seconds": self._oauth.grace_seconds,
                    "faults": self._faults.as_json(),
                    "paused": sorted(self._paused),
                    "revoked": sorted(self._revoked),
                    "fully_granting": sorted(self._fully_granting),
                    "envelopes": self._envelopes,
                    "lifetimes": self._lifetimes,
                    "calls": self.calls.as_json(),
                    "private_tokens": self.private_tokens.as_json(),
                }
            )

    def load(self, text: str) -> None:
        """Load what `dump` returned; raises ValueError if the text is something else."""
        try:
            state = json.loads(text)
        except ValueError:
            state = None
        if not isinstance(state, dict) or state.get("version") != _STATE_VERSION:
            raise ValueError(f"{self.state_file}: not a state file of this sandbox")
        self._oauth.load(state["oauth"])
        self._oauth.grace_seconds = state["grace_seconds"]
        self._faults.load(state["faults"])
        self._paused, self._revoked = set(state["paused"]), set(state["revoked"])
        self._fully_granting = set(state["fully_granting"])
        self._envelopes = dict(state["envelopes"])
        self._lifetimes = dict(state["lifetimes"])
        self.calls.load(state["calls"])
        self.private_tokens.load(state.get("private_tokens", {}))  # earlier files have none
