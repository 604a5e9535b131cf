"""What can go wrong, per location, on demand.

This module only decides *whether* a rule fires for a request. `answers` makes the bytes that are
sent; `world` keeps the rules and saves them.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

Kind = Literal[
    "latency",
    "rate_limit",
    "server_error",
    "html_502",
    "truncated_json",
    "gzip_lie",
    "reset",
    "stall",
    "unauthorized",
    "gateway_timeout_401",
    "forbidden_location",
    "error_in_200",
    "lost_token_response",
    "bad_client",
    "churn",
]
Variant = Literal["invalid_jwt", "documented", "scope", "version", "no_authorization", "authclass"]

KINDS: tuple[str, ...] = get_args(Kind)
VARIANTS: tuple[str, ...] = get_args(Variant)
CALL_LOGS = "/voice-ai/dashboard/call-logs"
TOKEN_PATH = "/oauth/token"
EVERYWHERE = "*"
_TOKEN_KINDS = frozenset({"lost_token_response", "bad_client"})
# Careful clients request a second more on both sides; that second alone does not match a day.
_MARGIN_MS = 1000


@dataclass(frozen=True)
class Fault:
    """One rule. It lets `after` matching requests pass, then fires `times` times (None: always)
    and is removed. With a `day`, it concerns requests for calls of that day in `zone`."""

    kind: Kind
    location_id: str = EVERYWHERE
    times: int | None = None
    after: int = 0
    day: dt.date | None = None
    zone: str = "UTC"
    path: str = ""
    status: int = 503
    seconds: float = 0.2
    retry_after: int | None = None
    variant: Variant = "invalid_jwt"
    # Churn only: call ids to remove, or how many of the oldest in the requested window; how many
    # calls to add, and their creation time (None: now).
    remove: tuple[str, ...] | int = ()
    add: int = 0
    add_at: dt.datetime | None = None
    id: int = 0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Fault":
        """Read a rule as the control endpoint gets it.

        Raises:
            ValueError: an unknown field or a value that makes no sense; the text says which.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(raw) - known):
            raise ValueError(f"unknown field: {', '.join(unknown)}")
        kind, variant = raw.get("kind"), raw.get("variant", "invalid_jwt")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of: {', '.join(KINDS)}")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of: {', '.join(VARIANTS)}")
        remove, add_at = raw.get("remove", ()), raw.get("add_at")
        return cls(
            kind=kind,
            location_id=str(raw.get("location_id") or EVERYWHERE),
            times=None if raw.get("times") in (None, "") else int(raw["times"]),
            after=int(raw.get("after", 0)),
            day=dt.date.fromisoformat(raw["day"]) if raw.get("day") else None,
            zone=zone_of(raw.get("zone") or "UTC"),
            path=str(raw.get("path", "")),
            status=int(raw.get("status", 503)),
            seconds=float(raw.get("seconds", 3600 if kind == "stall" else 0.2)),
            retry_after=None if raw.get("retry_after") is None else int(raw["retry_after"]),
            variant=variant,
            remove=remove if isinstance(remove, int) else tuple(map(str, remove)),
            add=int(raw.get("add", 0)),
            add_at=moment_of(add_at),
            id=int(raw.get("id", 0)),
        )

    def as_json(self) -> dict[str, Any]:
        """The rule as `from_json` reads it, without fields that have their default."""
        blank = Fault(self.kind)
        raw: dict[str, Any] = {"id": self.id, "kind": self.kind, "location_id": self.location_id}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in raw and value != getattr(blank, field.name):
                raw[field.name] = (
                    value.isoformat() if isinstance(value, dt.date | dt.datetime) else value
                )
        return raw

    def concerns(
        self, location_ids: Iterable[str], path: str, window: tuple[float, float] | None
    ) -> bool:
        """Whether this rule applies to a request to `path` for these locations and this window."""
        if self.location_id != EVERYWHERE and self.location_id not in location_ids:
            return False
        if self.path:
            if not path.startswith(self.path):
                return False
        elif self.kind in _TOKEN_KINDS:
            if path != TOKEN_PATH:
                return False
        elif path == TOKEN_PATH:
            # Tokens can still be refreshed while a location's API is down, unless a rule names the
            # token endpoint.
            return False
        if self.kind == "churn" and path != CALL_LOGS:
            return False
        if self.day is None:
            return True
        if path != CALL_LOGS:
            return False
        if window is None:
            return True
        start, end = (
            dt.datetime.combine(day, dt.time(), ZoneInfo(self.zone)).timestamp() * 1000
            for day in (self.day, self.day + dt.timedelta(days=1))
        )
        return min(window[1], end) - max(window[0], start) > _MARGIN_MS


_BAD_DAY_AGO: Final = dt.timedelta(days=3)


def bad_day(location_id: str, now: dt.datetime, zone: str) -> Fault:
    """The demo's bad day: 503 for the location's calls of the day three days ago in a zone."""
    day = (now - _BAD_DAY_AGO).astimezone(ZoneInfo(zone)).date()
    return Fault("server_error", location_id, day=day, zone=zone, status=503)


def zone_of(name: object) -> str:
    """The name of an IANA zone.

    Raises:
        ValueError: there is no such zone.
    """
    try:
        return ZoneInfo(str(name)).key
    except (KeyError, ValueError, OSError):
        raise ValueError("zone must be an IANA zone such as America/New_York") from None


def moment_of(text: str | None) -> dt.datetime | None:
    """An ISO moment or a day; without an offset it is UTC."""
    if not text:
        return None
    moment = dt.datetime.fromisoformat(text)
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment


class FaultBook:
    """The rules in force. Not locked: `world` holds the lock."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._next_id = 1

    @property
    def rules(self) -> tuple[Fault, ...]:
        return tuple(self._rules)

    def add(self, fault: Fault) -> Fault:
        """Add a rule; returns it with its number. A churn happens once by default."""
        times = 1 if fault.kind == "churn" and fault.times is None else fault.times
        entered = dataclasses.replace(fault, id=self._next_id, times=times)
        self._next_id += 1
        self._rules.append(entered)
        return entered

    def clear(self, location_id: str | None = None) -> int:
        """Remove the rules of one location (or all); returns how many."""
        before = len(self._rules)
        self._rules = [
            rule
            for rule in self._rules
            if location_id is not None and rule.location_id != location_id
        ]
        return before - len(self._rules)

    def fire(
        self, location_ids: Iterable[str], path: str, window: tuple[float, float] | None
    ) -> tuple[list[Fault], bool]:
        """The rules that fire for this request, and whether this has changed the book.

        All latency and churn rules fire; of the others only the first, because a request gets one
        answer.
        """
        ids = frozenset(location_ids)
        fired: list[Fault] = []
        kept: list[Fault] = []
        answered = changed = False
        for rule in self._rules:
            accompanies = rule.kind in ("latency", "churn")
            if not rule.concerns(ids, path, window) or (answered and not accompanies):
                kept.append(rule)
                continue
            if rule.after > 0:
                kept.append(dataclasses.replace(rule, after=rule.after - 1))
                changed = True
                continue
            fired.append(rule)
            answered = answered or not accompanies
            if rule.times is None:
                kept.append(rule)
                continue
            changed = True
            if rule.times > 1:
                kept.append(dataclasses.replace(rule, times=rule.times - 1))
        self._rules = kept
        return fired, changed

    def as_json(self) -> list[dict[str, Any]]:
        return [rule.as_json() for rule in self._rules]

    def load(self, raw: Iterable[Mapping[str, Any]]) -> None:
        self._rules = [Fault.from_json(item) for item in raw]
        self._next_id = 1 + max((rule.id for rule in self._rules), default=0)
