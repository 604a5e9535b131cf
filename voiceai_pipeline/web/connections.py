"""The list of everybody, a page for each, and what the buttons do.

Nobody is ever left out: not who has no connection, not because something else cannot be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from voiceai_pipeline.calls import ledger
from voiceai_pipeline.connections import circuit_breaker, history
from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import REQUESTED_SCOPES, Connection
from voiceai_pipeline.core.failures import PipelineError
from voiceai_pipeline.web import actions
from voiceai_pipeline.web.access import Form, posted
from voiceai_pipeline.web.actions import DaysError, PartlyLaunchedError
from voiceai_pipeline.web.cookies import Flash
from voiceai_pipeline.web.dagster_client import DagsterError
from voiceai_pipeline.web.pages import HOME, redirect, render, safe_back
from voiceai_pipeline.web.rows import Row
from voiceai_pipeline.web.site import Site, site_of

PER_PAGE: Final = 100
MONTH: Final = 31
"""Days that the page of a user proposes to read again: one run."""

HISTORY: Final = 50
"""Events shown of a user."""


@dataclass(frozen=True)
class Asked:
    """What part of the list is looked at, as the address says it."""

    q: str = ""
    show: str = ""
    page: int = 1

    @classmethod
    def of(cls, request: Request) -> "Asked":
        query = request.query_params
        page = query.get("page", "1")
        return cls(
            q=query.get("q", "").strip()[:100],
            show="attention" if query.get("show") == "attention" else "",
            page=int(page) if page.isdecimal() and len(page) < 6 else 1,
        )

    def address(self, **changed: object) -> str:
        """The address of the list with something changed; changing what is seen begins at 1."""
        values = {"q": self.q, "show": self.show, "page": 1, **changed}
        query = urlencode({k: v for k, v in values.items() if v and (k, v) != ("page", 1)})
        return f"{HOME}?{query}" if query else HOME


def routes() -> list[Route]:
    """The list, the users' own pages, and the buttons."""
    user = "/users/{user_id:uuid}"
    return [
        Route(HOME, _list, methods=["GET"]),
        Route(user, _detail, methods=["GET"]),
        Route(f"{user}/test", posted(_test), methods=["POST"]),
        Route(f"{user}/sync", posted(_sync), methods=["POST"]),
        Route(f"{user}/disconnect", _ask_disconnect, methods=["GET"]),
        Route(f"{user}/disconnect", posted(_disconnect), methods=["POST"]),
    ]


# Looking -----------------------------------------------------------------------------------------


def _list(request: Request) -> Response:
    site = site_of(request)
    asked = Asked.of(request)
    with site.pipeline.engine.begin() as db:
        people = connections.all_connections(db)
    statuses = _last_syncs(site)
    rows = [Row(person, (statuses or {}).get(person.user.id)) for person in people]
    rows.sort(key=lambda row: (row.urgency, row.name.casefold(), str(row.user_id)))
    found = [row for row in rows if row.matches(asked.q)]
    waiting = [row for row in found if row.needs_attention]
    shown = waiting if asked.show == "attention" else found
    pages = max(1, -(-len(shown) // PER_PAGE))
    page = min(max(1, asked.page), pages)
    return render(
        request,
        "connections.html",
        asked=asked,
        rows=shown[(page - 1) * PER_PAGE : page * PER_PAGE],
        total=len(rows),
        found=len(found),
        waiting=len(waiting),
        page=page,
        pages=pages,
        back=asked.address(page=page),
        last_syncs_are_known=statuses is not None,
        circuit=_open_circuit(site),
    )


def _last_syncs(site: Site, *user_ids: UUID) -> dict[UUID, ledger.UserStatus] | None:
    """Of these users, or of everybody. None if they cannot be read: the list shows everybody all
    the same."""
    try:
        with site.pipeline.engine.begin() as db:
            return ledger.statuses(db, user_ids or None)
    except sa.exc.SQLAlchemyError:
        return None


def _open_circuit(site: Site) -> circuit_breaker.Circuit | None:
    """The circuit while renewals of everybody are suspended."""
    try:
        with site.pipeline.engine.begin() as db:
            state = circuit_breaker.read(db)
    except sa.exc.SQLAlchemyError:
        return None
    return state if state.is_open else None


def _detail(request: Request) -> Response:
    site = site_of(request)
    user_id: UUID = request.path_params["user_id"]
    connection = actions.find(site, user_id)
    statuses = _last_syncs(site, user_id)
    today = actions.today(site)
    return render(
        request,
        "user.html",
        today=today,
        month_ago=today - timedelta(days=MONTH - 1),
        row=Row(connection, (statuses or {}).get(user_id)),
        back=f"/users/{user_id}",
        scopes=_scopes(connection),
        history=_history(site, user_id),
        last_syncs_are_known=statuses is not None,
        circuit=_open_circuit(site),
    )


def _history(site: Site, user_id: UUID) -> Sequence[history.Entry] | None:
    """None if it cannot be read."""
    try:
        with site.pipeline.engine.begin() as db:
            return history.of_user(db, user_id, HISTORY)
    except sa.exc.SQLAlchemyError:
        return None


def _scopes(connection: Connection) -> list[tuple[str, bool]]:
    """Every scope that was asked for or granted, and whether it was granted."""
    granted = (connection.scope or "").split()
    extra = sorted(set(granted) - set(REQUESTED_SCOPES))
    return [(scope, scope in granted) for scope in (*REQUESTED_SCOPES, *extra)]


# Doing -------------------------------------------------------------------------------------------


def _test(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    check = site_of(request).pipeline.tokens.check(user_id)
    if check.failure is None:
        odd = f" They differ from what it publishes: {check.drift}." if check.drift else ""
        flash = Flash.about(
            user_id,
            "good",
            "{user}: the test passed",
            f"HighLevel accepted the token and listed calls.{odd}",
        )
    else:
        flash = failed(user_id, "{user}: the test failed", check.failure)
    return redirect(request, safe_back(form.get("back", "")), flash)


def _sync(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    site = site_of(request)
    try:
        first, last = (_day(form.get(name, "")) for name in ("first", "last"))
        if first is not None:
            # A month ago, which the page proposes, may lie before there was anything.
            first = max(first, site.dagster.first_day())
        launched = actions.sync(site, user_id, "connections page", first, last)
    except PipelineError as error:
        flash = failed(user_id, "{user}: not synced", error)
    except DaysError as error:
        flash = Flash.about(user_id, "bad", "{user}: not synced", str(error))
    except DagsterError as error:
        run_ids = error.run_ids if isinstance(error, PartlyLaunchedError) else ()
        flash = Flash.about(user_id, "bad", "{user}: not synced", str(error), run_ids)
    else:
        flash = Flash.about(
            user_id,
            "good",
            "{user}: a sync was launched",
            f"Dagster reads {launched.first} to {launched.last} again; the result shows here when "
            "the run is over.",
            launched.run_ids,
        )
    return redirect(request, safe_back(form.get("back", "")), flash)


def _day(text: str) -> date | None:
    """A day of the form; None if it names none.

    Raises:
        DaysError: it is no day.
    """
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise DaysError("A day is written YYYY-MM-DD. Choose it in the calendar.") from None


def failed(user_id: UUID, title: str, error: PipelineError) -> Flash:
    """What to show for a failure that has a class: its message and its fix."""
    return Flash.about(user_id, "bad", title, f"{error.message}. {error.failure.explanation.fix}.")


def _ask_disconnect(request: Request) -> Response:
    connection = actions.find(site_of(request), request.path_params["user_id"])
    back = safe_back(request.query_params.get("back", ""))
    return render(request, "disconnect.html", row=Row(connection, None), back=back)


def _disconnect(request: Request, form: Form) -> Response:
    user_id: UUID = request.path_params["user_id"]
    site_of(request).pipeline.consent.disconnect(user_id)
    flash = Flash.about(
        user_id,
        "plain",
        "{user} is disconnected",
        "The stored tokens were destroyed; the calls stay. Connect again whenever you like.",
    )
    return redirect(request, safe_back(form.get("back", "")), flash)
