"""What every request handler works with, assembled once per process."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import HTTPConnection

from voiceai_pipeline.connections import alert_channels
from voiceai_pipeline.connections.dashboard_logins import DashboardLogins
from voiceai_pipeline.connections.queries import stored_connection
from voiceai_pipeline.core.connection import Connection
from voiceai_pipeline.core.dagster_access import DAGSTER_PATH, Role
from voiceai_pipeline.core.foreign_text import visible
from voiceai_pipeline.core.settings import CALLBACK_PATH, HighLevelSettings, PageSettings, Settings
from voiceai_pipeline.core.settings_parsing import is_loopback
from voiceai_pipeline.pipeline import Pipeline
from voiceai_pipeline.web import template_filters
from voiceai_pipeline.web.cookies import Jar, Signer
from voiceai_pipeline.web.dagster_client import Dagster
from voiceai_pipeline.web.dagster_upstream import Upstream
from voiceai_pipeline.web.known_users import KnownUsers
from voiceai_pipeline.web.logouts import Logouts
from voiceai_pipeline.web.sync_watch import SyncWatch
from voiceai_pipeline.web.throttle import Throttle
from voiceai_pipeline.web.webhooks import Inbox

DAGSTER_UI: Final = "http://127.0.0.1:3000"
"""Where Dagster's UI process listens, unless said otherwise."""

ACTOR: Final = "connections page"
"""The actor, in the history of connections and in the tags of runs."""


def _written(value: Any) -> Any:
    """What a template writes for a value; ``Markup`` is written as it is."""
    return visible(value) if type(value) is str else value


@functools.cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("voiceai_pipeline", "web/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_written,
    )
    templates.filters["on_page"] = template_filters.on_page
    return templates


@dataclass(frozen=True)
class Site:
    """The parts of one running installation of the pages.

    Attributes:
        home: VOICEAI_HOME, whose disk space the list of users watches.
        page: its address and access settings.
        dagster: launches runs; links that users follow go to ``page.dagster_url``.
        upstreams: where each role's requests under ``/dagster`` go.
        signer: signs cookies and form tokens.
        logouts: sessions that were logged out before they expired.
        inbox: keeps HighLevel's webhook messages.
        watch: follows the syncs that operators asked for.
        channels: the names of the channels that alerts are sent to.
        failed_logins: limits password guessing.
        known_users: reads all users and locations for lists of calls.
        dashboard_logins: verifies logins of the replaced dashboard; None: they are not accepted.
    """

    pipeline: Pipeline
    home: Path
    highlevel: HighLevelSettings
    page: PageSettings
    dagster: Dagster
    upstreams: Mapping[Role, Upstream]
    signer: Signer
    logouts: Logouts
    inbox: Inbox
    watch: SyncWatch
    channels: tuple[str, ...] = ()
    failed_logins: Throttle = field(default_factory=Throttle)
    dashboard_logins: DashboardLogins | None = None
    templates: Environment = field(default_factory=_templates)
    known_users: KnownUsers = field(default_factory=KnownUsers)

    @property
    def jar(self) -> Jar:
        """Reads and writes the cookies."""
        return Jar(self.signer, secure=self.page.url.startswith("https://"))

    def connection(self, user_id: UUID) -> Connection:
        """A user's current connection.

        Raises:
            UnknownUserError: there is no such user.
        """
        return stored_connection(self.pipeline.engine, user_id)

    def today(self) -> date:
        """Today in the pipeline's time zone, whose days are the partitions."""
        return datetime.now(self.pipeline.zone).date()

    @property
    def callback_leads_here(self) -> bool:
        """Whether the redirect URI is this page's, at its public or local address."""
        uri = self.highlevel.redirect_uri
        return uri == self.page.url + CALLBACK_PATH or self._is_local(uri)

    def name_for_cookies(self, host: str) -> str | None:
        """The address to redirect to from ``host``; None if ``host`` is fine.

        For a browser, ``localhost`` and ``127.0.0.1`` are two sites with separate cookies: a
        consent that was started at one of them cannot be finished at the other.
        """
        uri = urlsplit(self.highlevel.redirect_uri)
        given = urlsplit(f"http://{host}").hostname or ""
        if not self._is_local(self.highlevel.redirect_uri) or given == uri.hostname:
            return None
        return f"{uri.scheme}://{uri.netloc}" if is_loopback(given) else None

    def _is_local(self, uri: str) -> bool:
        parts = urlsplit(uri)
        is_ours = parts.port == self.page.port and parts.path == CALLBACK_PATH
        return is_ours and is_loopback(parts.hostname or "")


def site_of(connection: HTTPConnection) -> Site:
    """The site that answers this request."""
    site: Site = connection.app.state.site
    return site


def open_site(
    settings: Settings,
    pipeline: Pipeline,
    dagster_url: str | None = None,
    dagster_url_for_analysts: str | None = None,
) -> Site:
    """Assemble a site.

    Args:
        dagster_url: where Dagster's UI process listens; None: at VOICEAI_DAGSTER_URL if users open
            it at an address of its own, else at ``DAGSTER_UI``.
        dagster_url_for_analysts: where the UI process for analysts listens; None: the same process.
    """
    page = settings.page
    inner = dagster_url or (
        DAGSTER_UI if page.dagster_url == page.url + DAGSTER_PATH else page.dagster_url
    )
    jwks_url = page.jwks_url
    dagster = Dagster(inner, page.dagster_key)
    return Site(
        pipeline=pipeline,
        home=settings.home,
        highlevel=settings.highlevel,
        page=page,
        dagster=dagster,
        upstreams={
            Role.OPERATOR: Upstream(inner),
            Role.ANALYST: Upstream(dagster_url_for_analysts or inner),
        },
        signer=Signer(page.secret, page.analyst_secret),
        logouts=Logouts(settings.home / "logouts"),
        inbox=Inbox(pipeline.engine, settings.highlevel),
        watch=SyncWatch(pipeline.engine, dagster),
        channels=tuple(one.name for one in alert_channels.channels(settings.alerts)),
        dashboard_logins=DashboardLogins(jwks_url, page.jwt_audience) if jwks_url else None,
    )
