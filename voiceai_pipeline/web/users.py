"""The list of all users, each user's own page, and their buttons; Connect is in ``connect``.

The list never leaves a user out: neither without a connection, nor because other data is
unavailable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.calls import freshness, ledger
from voiceai_pipeline.calls.freshness import Freshness
from voiceai_pipeline.connections import circuit_breaker, consent_requests, history, installs
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.connections.consent_requests import ConnectRequest
from voiceai_pipeline.connections.installs import Install
from voiceai_pipeline.core.connection import REQUESTED_SCOPES, Connection
from voiceai_pipeline.core.days import DaysError
from voiceai_pipeline.core.disk import room_warning
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.web import overview, sync_runs
from voiceai_pipeline.web.access import Form, posted, refuse_analysts
from voiceai_pipeline.web.cookies import Flash
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.pages import HOME, reading, redirect, render, safe_back
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline.web.site import ACTOR, Site, site_of
from voiceai_pipeline.web.sync_runs import PartlyLaunchedError

PER_PAGE: Final = 100
MONTH: Final = 31
"""Days that a user's page suggests for a re-sync: one run."""

HISTORY: Final = 50
"""Number of events shown for a user."""

T = TypeVar("T")


@dataclass(frozen=True)
class ListQuery:
    """Search, filter and page of the list, from the query string."""

    q: str = ""
    show: str = ""
    page: int = 1

    @classmethod
    def of(cls, request: Request) -> "ListQuery":
        query = request.query_params
        page = query.get("page", "1")
        return cls(
            q=query.get("q", "").strip()[:100],
            show="attention" if query.get("show") == "attention" else "",
            page=int(page) if page.isdecimal() and len(page) < 6 else 1,
        )

    @property
    def is_narrowed(self) -> bool:
        """Whether it shows a part of the list, and not the first page."""
        return self != ListQuery()

    def address(self, **changed: object) -> str:
        """The list's URL with a changed search, filter or page; page 1 unless given."""
        values = {"q": self.q, "show": self.show, "page": 1, **changed}
        query = urlencode({k: v for k, v in values.items() if v and (k, v) != ("page", 1)})
        return f"{HOME}?{query}" if query else HOME


def routes() -> list[Route]:
    """The list, the users' pages, and their buttons except Connect."""
    user = "/users/{user_id:uuid}"
    return [
        Route(HOME, reading(_list), methods=["GET"]),
        Route(user, reading(_detail), methods=["GET"]),
        Route(f"{user}/test", posted(_test), methods=["POST"]),
        Route(f"{user}/sync", posted(_sync), methods=["POST"]),
        Route(f"{user}/disconnect", _ask_disconnect, methods=["GET"]),
        Route(f"{user}/disconnect", posted(_disconnect), methods=["POST"]),
    ]


# Pages -------------------------------------------------------------------------------------------


def _list(request: Request) -> Response:
    site = site_of(request)
    query = ListQuery.of(request)
    with site.pipeline.engine.begin() as db:
        listed = connections.all_connections(db)
    statuses = _last_syncs(site)
    rows = [Row(one, (statuses or {}).get(one.user.id)) for one in listed]
    rows.sort(key=lambda row: (row.urgency, row.name.casefold(), str(row.user_id)))
    found = [row for row in rows if row.matches(query.q)]
    needing_action = [row for row in found if row.needs_action]
    shown = needing_action if query.show == "attention" else found
    pages = max(1, -(-len(shown) // PER_PAGE))
    page = min(max(1, query.page), pages)
    return render(
        request,
        "users.html",
        query=query,
        rows=shown[(page - 1) * PER_PAGE : page * PER_PAGE],
        total=len(rows),
        found=len(found),
        needing_action=len(needing_action),
        page=page,
        pages=pages,
        back=query.address(page=page),
        last_syncs_are_known=statuses is not None,
        circuit=_open_circuit(site),
        disk=room_warning(site.home),
        held=_held(site),
        installs=_installs(site, listed),
        overview=None if query.is_narrowed else _overview(site, listed),
    )


def _overview(site: Site, listed: Sequence[Connection]) -> overview.Overview | None:
    return _read_or_none(site, lambda db: overview.read(db, site, listed))


def _held(site: Site) -> Sequence[ConnectRequest]:
    """Consents from HighLevel's marketplace that wait for an operator."""
    now = datetime.now(UTC)
    return _read_or_none(site, lambda db: consent_requests.held(db, now)) or ()


def _installs(site: Site, listed: Sequence[Connection]) -> Sequence[Install]:
    """Locations of connected agencies that installed the app and have no user."""
    return _read_or_none(site, lambda db: installs.offered(db, listed)) or ()


def _last_syncs(site: Site, *user_ids: UUID) -> dict[UUID, ledger.UserStatus] | None:
    """The last sync of these users, or of all."""
    return _read_or_none(site, lambda db: ledger.statuses(db, user_ids or None))


def _open_circuit(site: Site) -> circuit_breaker.Circuit | None:
    """The circuit breaker while it suspends all refreshes."""
    circuit = _read_or_none(site, circuit_breaker.read)
    return circuit if circuit is not None and circuit.is_open else None


def _read_or_none(site: Site, read: Callable[[sa.Connection], T]) -> T | None:
    """What ``read`` returns; None if the database cannot provide it: the pages work without."""
    try:
        with site.pipeline.engine.begin() as db:
            return read(db)
    except sa.exc.SQLAlchemyError:
        return None


def _detail(request: Request) -> Response:
    site = site_of(request)
    user_id: UUID = request.path_params["user_id"]
    connection = site.connection(user_id)
    statuses = _last_syncs(site, user_id)
    today = site.today()
    return render(
        request,
        "user.html",
        today=today,
        month_ago=today - timedelta(days=MONTH - 1),
        row=Row(connection, (statuses or {}).get(user_id)),
        back=f"/users/{user_id}",
        scopes=_scopes(connection),
        history=_read_or_none(site, lambda db: history.of_user(db, user_id, HISTORY)),
        last_syncs_are_known=statuses is not None,
        circuit=_open_circuit(site),
        freshness=_freshness(site, connection),
    )


def _freshness(site: Site, connection: Connection) -> Freshness | None:
    location_id = connection.location_id
    if not location_id or not connection.can_sync:
        return None
    found = _read_or_none(site, lambda db: freshness.of_locations(db, [location_id]))
    return found[location_id] if found else None


def _scopes(connection: Connection) -> list[tuple[str, bool]]:
    """Every scope that was requested or granted, and whether it was granted."""
    granted = (connection.scope or "").split()
    extra = sorted(set(granted) - set(REQUESTED_SCOPES))
    return [(scope, scope in granted) for scope in (*REQUESTED_SCOPES, *extra)]


# Buttons -----------------------------------------------------------------------------------------


def _test(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    check = site_of(request).pipeline.tokens.check(user_id)
    if check.failure is None:
        odd = f" Their fields differ from the published API: {check.drift}." if check.drift else ""
        flash = Flash.about(
            user_id,
            "good",
            "{user}: connection test passed",
            f"HighLevel accepted the token and listed calls.{odd}",
        )
    else:
        flash = _failed(user_id, "{user}: connection test failed", check.failure)
    return redirect(request, safe_back(form.get("back", "")), flash)


def _sync(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    site = site_of(request)
    try:
        first, last = (_day(form.get(name, "")) for name in ("first", "last"))
        if first is not None:
            # The suggested month may start before the first partition.
            first = max(first, site.dagster.first_day())
        launched = sync_runs.launch(site, user_id, ACTOR, first, last)
    except PipelineError as error:
        flash = _failed(user_id, "{user}: sync not started", error)
    except DaysError as error:
        flash = Flash.about(user_id, "bad", "{user}: sync not started", str(error))
    except DagsterError as error:
        run_ids = error.run_ids if isinstance(error, PartlyLaunchedError) else ()
        flash = Flash.about(user_id, "bad", "{user}: sync not started", str(error), run_ids)
    else:
        flash = Flash.about(
            user_id,
            "good",
            "{user}: sync started",
            f"Dagster is syncing {launched.first} to {launched.last}. The result appears here when "
            "the run has finished.",
            launched.run_ids,
        )
    return redirect(request, safe_back(form.get("back", "")), flash)


def _day(text: str) -> date | None:
    """A day of the form; None if the field is empty.

    Raises:
        DaysError: it is not a date.
    """
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise DaysError("Enter each day as YYYY-MM-DD, or pick it in the calendar.") from None


def _failed(user_id: UUID, title: str, error: PipelineError) -> Flash:
    """The message and the fix of a failure."""
    return Flash.about(user_id, "bad", title, f"{error.message}. {error.failure.explanation.fix}.")


def _ask_disconnect(request: Request) -> Response:
    refuse_analysts(request)
    connection = site_of(request).connection(request.path_params["user_id"])
    back = safe_back(request.query_params.get("back", ""))
    return render(request, "disconnect.html", row=Row(connection, None), back=back)


def _disconnect(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    site_of(request).pipeline.consent.disconnect(user_id)
    flash = Flash.about(
        user_id,
        "plain",
        "{user} is disconnected",
        "The stored tokens were deleted; the calls are kept. You can connect again at any time.",
    )
    return redirect(request, safe_back(form.get("back", "")), flash)
