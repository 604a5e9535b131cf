"""The first page: the overview, and the list of all users with its filters and its buttons for
several users.

The list never leaves a user out: neither without a connection, nor because other data is
unavailable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.connections import consent_requests, installs
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent_requests import ConnectRequest
from voiceai_pipeline.connections.installs import Install
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.disk import room_warning
from voiceai_pipeline.web import lookups, overview, sync_runs
from voiceai_pipeline.web.access import Form, posted
from voiceai_pipeline.web.cookies import Flash
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.headers import with_scripts
from voiceai_pipeline.web.pages import HOME, PageError, reading, redirect, render, safe_back
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline.web.site import ACTOR, Site, site_of
from voiceai_pipeline.web.sync_runs import LaunchedForMany, PartlyLaunchedError

PER_PAGE: Final = 100

HELD_SHOWN: Final = 10
"""Maximum consents from HighLevel's marketplace that the list names: strangers can send them."""

_CHOSEN: Final = "user:"
"""Names of the checkboxes begin with this; the user's id follows."""


@dataclass(frozen=True)
class Filter:
    """A part of the list.

    Attributes:
        key: its value in the query string.
    """

    key: str
    label: str
    keeps: Callable[[Row], bool]


FILTERS: Final = (
    Filter("", "All users", lambda _row: True),
    Filter("attention", "Needs action", lambda row: row.needs_action),
    Filter("failed", "Last sync failed", lambda row: row.has_failed),
    Filter("running", "Syncing", lambda row: row.sync is not None),
    Filter("paused", "Paused", lambda row: row.is_paused),
    Filter("unconnected", "Not connected", lambda row: row.is_unconnected),
)


@dataclass(frozen=True)
class ListQuery:
    """Search, filters and page of the list, from the query string."""

    q: str = ""
    show: str = ""
    location: str = ""
    page: int = 1

    @classmethod
    def of(cls, request: Request) -> "ListQuery":
        query = request.query_params
        page, show = query.get("page", "1"), query.get("show", "")
        return cls(
            q=query.get("q", "").strip()[:100],
            show=show if any(show == one.key for one in FILTERS) else "",
            location=query.get("location", "").strip()[:100],
            page=int(page) if page.isdecimal() and len(page) < 6 else 1,
        )

    @property
    def is_narrowed(self) -> bool:
        """Whether it is anything but the first page of the whole list."""
        return self != ListQuery()

    @property
    def filter(self) -> Filter:
        return next(one for one in FILTERS if one.key == self.show)

    def address(self, **changed: object) -> str:
        """The list's URL with a changed search, filter or page; page 1 unless given."""
        values = {
            "q": self.q,
            "show": self.show,
            "location": self.location,
            "page": 1,
            **changed,
        }
        query = urlencode({k: v for k, v in values.items() if v and (k, v) != ("page", 1)})
        return f"{HOME}?{query}" if query else HOME

    def matches(self, row: Row) -> bool:
        """Whether search and location, but not the filter, keep a user."""
        here = not self.location or row.connection.location_id == self.location
        return here and row.matches(self.q)


def routes() -> list[Route]:
    """The list, and its buttons for several users."""
    return [
        Route(HOME, reading(_list), methods=["GET"]),
        Route("/failed/sync", posted(_sync_failed), methods=["POST"]),
        Route("/chosen/sync", posted(_sync_chosen), methods=["POST"]),
        Route("/chosen/pause", posted(_pause_chosen), methods=["POST"]),
        Route("/chosen/resume", posted(_resume_chosen), methods=["POST"]),
        Route("/chosen/disconnect", posted(_disconnect_chosen), methods=["POST"]),
    ]


def _list(request: Request) -> Response:
    site = site_of(request)
    query = ListQuery.of(request)
    with site.pipeline.engine.begin() as db:
        listed = connections.all_connections(db)
    statuses = lookups.last_syncs(site)
    rows = _rows(listed, statuses or {}, site)
    rows.sort(key=lambda row: (row.urgency, row.name.casefold(), str(row.user_id)))
    found = [row for row in rows if query.matches(row)]
    shown = [row for row in found if query.filter.keeps(row)]
    pages = max(1, -(-len(shown) // PER_PAGE))
    page = min(max(1, query.page), pages)
    response = render(
        request,
        "users.html",
        query=query,
        filters=[(one, sum(map(one.keeps, found))) for one in FILTERS],
        locations=_locations(rows),
        rows=shown[(page - 1) * PER_PAGE : page * PER_PAGE],
        total=len(rows),
        needing_action=sum(row.needs_action for row in found),
        paused=sum(row.is_paused for row in found),
        page=page,
        pages=pages,
        back=query.address(page=page),
        last_syncs_are_known=statuses is not None,
        circuit=lookups.open_circuit(site),
        disk=room_warning(site.home),
        held=_held(site),
        installs=_installs(site, listed),
        overview=None if query.is_narrowed else _overview(site, listed),
    )
    return with_scripts(response, site.page)


def _rows(
    listed: Sequence[Connection], statuses: Mapping[UUID, ledger.UserStatus], site: Site
) -> list[Row]:
    syncs = lookups.under_way(site)
    return [Row(one, statuses.get(one.user.id), syncs.get(one.user.id)) for one in listed]


def _locations(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Ids and names of the locations that several users share, to filter by. A search finds the
    others."""
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for row in rows:
        location_id = row.connection.location_id
        if location_id:
            counts[location_id] = counts.get(location_id, 0) + 1
            names[location_id] = row.connection.location_name or location_id
    shared = [(one, names[one]) for one, count in counts.items() if count > 1]
    return sorted(shared, key=lambda one: (one[1].casefold(), one[0]))


def _overview(site: Site, listed: Sequence[Connection]) -> overview.Overview | None:
    return lookups.read_or_none(site, lambda db: overview.read(db, site, listed))


def _held(site: Site) -> Sequence[ConnectRequest]:
    """Consents from HighLevel's marketplace that wait for an operator."""
    now = datetime.now(UTC)
    held = lookups.read_or_none(site, lambda db: consent_requests.held(db, now)) or ()
    return held[:HELD_SHOWN]


def _installs(site: Site, listed: Sequence[Connection]) -> Sequence[Install]:
    """Locations of connected agencies that installed the app and have no user."""
    return lookups.read_or_none(site, lambda db: installs.offered(db, listed)) or ()


# Buttons for several users -----------------------------------------------------------------------


def _sync_failed(request: Request, form: Form) -> Response:
    """Re-sync all users whose last sync failed, for all days that failed for any of them."""
    site = site_of(request)
    with site.pipeline.engine.begin() as db:
        listed = connections.all_connections(db)
        statuses = ledger.statuses(db)
        failed = [row.connection for row in _rows(listed, statuses, site) if row.has_failed]
        days = ledger.failed_days(db, [one.user.id for one in failed])
    back = safe_back(form.get("back", ""))
    if not failed:
        return redirect(request, back, Flash("plain", "No last sync has failed", "Nothing to do."))
    return redirect(request, back, _launched(site, failed, days))


def _sync_chosen(request: Request, form: Form) -> Response:
    site = site_of(request)
    flash = _launched(site, _chosen(site, form))
    return redirect(request, safe_back(form.get("back", "")), flash)


def _launched(site: Site, chosen: Sequence[Connection], days: Sequence[date] = ()) -> Flash:
    """Launch a sync of several users; return the message about it."""
    try:
        done = sync_runs.launch_for_many(site, chosen, ACTOR, days)
    except DagsterError as error:
        run_ids = error.run_ids if isinstance(error, PartlyLaunchedError) else ()
        return Flash("bad", "Sync not started", str(error), run_ids=run_ids)
    text = _rest(done)
    if not done.users:
        return Flash("warn", "Nothing to sync", text)
    return Flash(
        "good",
        f"Sync of {_users(done.users)} started",
        f"Dagster is syncing {done.first} to {done.last}. {text}".strip(),
        run_ids=done.run_ids,
    )


def _rest(done: LaunchedForMany) -> str:
    """Whom the runs leave out, and why."""
    said = []
    if done.busy:
        said.append(f"{_users(done.busy)} being synced already.")
    if done.blocked:
        said.append(f"{_users(done.blocked)} left out: action is needed first, as the list says.")
    if done.paused:
        said.append(f"{_users(done.paused)} left out: their syncs are paused.")
    return " ".join(said)


def _users(count: int) -> str:
    return f"{count} user{'s' if count != 1 else ''}"


def _pause_chosen(request: Request, form: Form) -> Response:
    chosen = _chosen(site := site_of(request), form)
    back = safe_back(form.get("back", ""))
    if form.get("sure") != "yes":
        action = request.url.path
        return render(request, "pause.html", chosen=chosen, action=action, sure=True, back=back)
    paused = site.pipeline.pauses.pause([one.user.id for one in chosen], form.get("reason", ""))
    text = "No calls are read until you resume them. Their tokens are kept and refreshed."
    if before := len(chosen) - len(paused):
        text += f" {_users(before)} had been paused before; nothing was changed there."
    flash = Flash("plain", f"Syncs of {_users(len(paused))} paused", text)
    return redirect(request, back, flash)


def _resume_chosen(request: Request, form: Form) -> Response:
    chosen = _chosen(site := site_of(request), form)
    resumed = site.pipeline.pauses.resume([one.user.id for one in chosen])
    text = "The days that were missed are synced automatically within minutes."
    flash = (
        Flash("good", f"Syncs of {_users(len(resumed))} resumed", text)
        if resumed
        else Flash("plain", "None of the checked users is paused", "Nothing was changed.")
    )
    return redirect(request, safe_back(form.get("back", "")), flash)


def _disconnect_chosen(request: Request, form: Form) -> Response:
    site = site_of(request)
    chosen = _chosen(site, form)
    back = safe_back(form.get("back", ""))
    if form.get("sure") != "yes":
        return render(request, "disconnect_chosen.html", chosen=chosen, back=back)
    for one in chosen:
        site.pipeline.consent.disconnect(one.user.id)
    return redirect(
        request,
        back,
        Flash(
            "plain",
            f"{_users(len(chosen))} disconnected",
            "The stored tokens were deleted; the calls are kept. You can connect again at any "
            "time.",
        ),
    )


def _chosen(site: Site, form: Form) -> list[Connection]:
    """The users whose boxes are checked.

    Raises:
        PageError: no box is checked.
    """
    wanted = {name.removeprefix(_CHOSEN) for name in form if name.startswith(_CHOSEN)}
    with site.pipeline.engine.begin() as db:
        found = [one for one in connections.all_connections(db) if str(one.user.id) in wanted]
    if not found:
        raise PageError(
            422,
            "No user is chosen",
            "Nothing was changed.",
            "Go back and check the boxes of the users you mean.",
        )
    return found
