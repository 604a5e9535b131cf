"""Resolves the address of a list of calls to locations and windows, and decides what a visitor may
see of a call."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from starlette.requests import Request

from voiceai_pipeline.calls import call_content, call_search
from voiceai_pipeline.calls.call_content import Kind, Opening
from voiceai_pipeline.calls.call_filter import CallFilter, Scope, Search
from voiceai_pipeline.calls.call_options import Location
from voiceai_pipeline.core.dagster_access import Role
from voiceai_pipeline.core.days import Window, day_range
from voiceai_pipeline.web.access import address_of
from voiceai_pipeline.web.call_query import CallQuery
from voiceai_pipeline.web.known_users import Everyone
from voiceai_pipeline.web.pages import PageError, role_of, session_of
from voiceai_pipeline.web.site import Site, site_of


@dataclass(frozen=True)
class CallScope:
    """A list of calls, ready to be read.

    Attributes:
        known: all users and locations.
        chosen: the locations whose calls the list shows.
        complaints: sentences about what was left out of the address.
    """

    wanted: CallFilter
    known: Everyone
    chosen: Sequence[Location]
    complaints: tuple[str, ...]

    def zone_of(self, location_id: str, zone: str, otherwise: ZoneInfo) -> ZoneInfo:
        """The zone to show a call's times in: ``zone``, else its location's own."""
        if zone:
            return ZoneInfo(zone)
        return self.known.zones.get(location_id, otherwise)


def read_scope(db: sa.Connection, site: Site, query: CallQuery, *, content: bool) -> CallScope:
    """Resolve ``query``.

    Args:
        content: whether the visitor may see content; if not, a search looks at call ids only.
    """
    now = datetime.now(UTC)
    known = site.known_users.read(db, site.pipeline.zone)
    chosen, complaints = _chosen(query, known)
    if complaints:
        # Perhaps connected a moment ago.
        known = site.known_users.read(db, site.pipeline.zone, besides=known)
        chosen, complaints = _chosen(query, known)
    days = {zone: query.days_on(now.astimezone(zone).date()) for zone in {c.zone for c in chosen}}
    if _is_of_times(query) and any(map(_is_long, days.values())):
        complaints += (f"Weekdays, hours and minutes cover only the last {_MOST_DAYS.days} days.",)
    windows = {zone: _windows(query, *found, zone) for zone, found in days.items()}
    zone = site.pipeline.zone
    changed = datetime.combine(query.changed, time.min, zone) if query.changed else None
    wanted = CallFilter(
        scopes=[Scope(one.location_id, window) for one in chosen for window in windows[one.zone]],
        has=query.has,
        agent_ids=query.agents,
        actions=query.actions,
        outcomes=query.outcomes,
        min_seconds=query.shortest,
        max_seconds=query.longest,
        changed_since=changed,
        search=None if query.clock else Search.of(query.q),
        only_ids=not content,
        show=query.show,
        sort=query.sort,
        is_ascending=query.is_ascending,
    )
    return CallScope(wanted, known, chosen, query.complaints + complaints)


def _chosen(query: CallQuery, known: Everyone) -> tuple[list[Location], tuple[str, ...]]:
    found, complaints = list(known.locations), []
    for asked in query.locations and (query.locations,):
        part = [one for one in found if _is_named(one, asked)]
        if not part:
            complaints.append("No location has this name or id.")
        found = part
    if query.user:
        named = query.user.casefold()
        theirs = {
            one.location_id
            for one in known.users
            if str(one.user.id) == query.user or named in one.user.name.casefold()
        }
        if not theirs:
            complaints.append("No user has this name or id.")
        elif theirs == {None}:
            complaints.append("This user has never had a location, so there are no calls.")
        found = [one for one in found if one.location_id in theirs]
    return found, tuple(complaints)


def _is_named(location: Location, asked: Sequence[str]) -> bool:
    return any(
        one == location.location_id or one.casefold() in location.name.casefold() for one in asked
    )


def _windows(
    query: CallQuery, first: date | None, last: date | None, zone: ZoneInfo
) -> list[Window | None]:
    """The whole time, or the windows within it that the weekday and hour select."""
    if not _is_of_times(query):
        return [_window(first, last, zone)]
    last = last or datetime.now(zone).date()
    first = max(first or date.min, last - _MOST_DAYS)
    days = [day for day in day_range(first, last) if query.weekday in (None, day.isoweekday())]
    if query.clock is not None:
        return [window for day in days for window in _minutes(day, query.clock, zone)]
    if query.hour is None:
        return [Window.of_day(day, zone) for day in days]
    hours = [_hour(day, query.hour, zone) for day in days]
    # Where clocks go forward, an hour of the day is missing.
    return [window for window in hours if window.start < window.end]


def _is_of_times(query: CallQuery) -> bool:
    """Whether the list is narrowed to a weekday, an hour or a minute."""
    return (query.weekday, query.hour, query.clock) != (None, None, None)


def _is_long(days: tuple[date | None, date | None]) -> bool:
    first, last = days
    return first is None or (last is not None and last - first > _MOST_DAYS)


_MOST_DAYS: Final = timedelta(days=92)
"""How far back single hours and weekdays can be selected: as far as the insights go."""


def _minutes(day: date, clock: time, zone: ZoneInfo) -> list[Window]:
    """The windows of a minute of the local day: two if clocks go back over it, none if they skip
    it, else one."""
    found = {
        datetime.combine(day, clock.replace(fold=fold), zone).astimezone(UTC) for fold in (0, 1)
    }
    is_there = [at for at in sorted(found) if at.astimezone(zone).time() == clock]
    return [Window(at, at + timedelta(minutes=1)) for at in is_there]


def _hour(day: date, hour: int, zone: ZoneInfo) -> Window:
    """An hour of the local day. When clocks go back, the repeated hour counts as one."""
    if hour == 23:
        end = Window.of_day(day, zone).end
    else:
        end = datetime.combine(day, time(hour + 1), zone).astimezone(UTC)
    return Window(datetime.combine(day, time(hour), zone).astimezone(UTC), end)


def _window(first: date | None, last: date | None, zone: ZoneInfo) -> Window | None:
    if first is None and last is None:
        return None
    start = Window.of_day(first, zone).start if first else datetime(2000, 1, 1, tzinfo=UTC)
    end = Window.of_day(last, zone).end if last else datetime(2101, 1, 2, tzinfo=UTC)
    return Window(start, end)


# Who sees what -----------------------------------------------------------------------------------


def may_see_content(request: Request) -> bool:
    """Whether the visitor may read what callers said, and who they are."""
    role = role_of(request)
    return role is Role.OPERATOR or (
        role is Role.ANALYST and site_of(request).page.analysts_see_content
    )


def record(db: sa.Connection, request: Request, kind: Kind, calls: int, *key: str) -> None:
    """Record that the visitor gets the content of ``calls`` calls.

    Args:
        key: the location id and call id of a single call.
    """
    session = session_of(request)
    browser = hashlib.sha256((session.id if session else "").encode()).hexdigest()[:8]
    location_id, call_id = key or (None, None)
    call_content.record(
        db,
        Opening(
            at=datetime.now(UTC),
            role=(role_of(request) or Role.OPERATOR).value,
            visitor=f"session {browser}, {address_of(request)}",
            kind=kind,
            calls=calls,
            location_id=location_id,
            call_id=call_id,
        ),
    )


def too_long() -> PageError:
    """The error page for a query that takes too long."""
    return PageError(
        503,
        "This takes too long",
        f"The database was still searching after {call_search.PATIENCE // 1000} seconds, and was "
        "stopped. Nothing was changed.",
        "Go back and choose fewer days, or a location.",
    )
