"""What every handler works with, put together once per process."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import HTTPConnection

from voiceai_pipeline.core.settings import CALLBACK_PATH, HighLevelSettings, PageSettings
from voiceai_pipeline.core.settings_parsing import is_loopback
from voiceai_pipeline.pipeline import Pipeline
from voiceai_pipeline.web import filters
from voiceai_pipeline.web.cookies import Seal
from voiceai_pipeline.web.dagster_client import Dagster
from voiceai_pipeline.web.throttle import Throttle


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("voiceai_pipeline", "web/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["on_page"] = filters.on_page
    return templates


@dataclass(frozen=True)
class Site:
    """The parts of one running page.

    Attributes:
        page: where it is and who may use it.
        dagster: where it asks for runs; links for people go to ``page.dagster_url``.
        seal: signs what browsers keep.
        wrong_passwords: counts them.
        ended_sessions: ids of sessions that were logged out before their time was over.
    """

    pipeline: Pipeline
    highlevel: HighLevelSettings
    page: PageSettings
    dagster: Dagster
    seal: Seal
    wrong_passwords: Throttle = field(default_factory=Throttle)
    ended_sessions: set[str] = field(default_factory=set)
    templates: Environment = field(default_factory=_templates)

    @property
    def is_https(self) -> bool:
        return self.page.url.startswith("https://")

    @property
    def callback_leads_here(self) -> bool:
        """Whether HighLevel sends browsers back to this page, at its public or local address."""
        uri = self.highlevel.redirect_uri
        return uri == self.page.url + CALLBACK_PATH or self._is_local(uri)

    def name_for_cookies(self, host: str) -> str | None:
        """The address to use instead of one at ``host``; None if that one will do.

        ``localhost`` and ``127.0.0.1`` are one page and two sites to a browser, with cookies of
        their own: a consent that is begun at one of them cannot be finished at the other.
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
