"""The page on a real socket: as a process of its own, or in a thread for tests."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from voiceai_pipeline.connections import alert_delivery
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.pipeline import Pipeline, open_pipeline
from voiceai_pipeline.web.app import create_app
from voiceai_pipeline.web.cookies import Seal
from voiceai_pipeline.web.daemon_monitor import Watch, watching
from voiceai_pipeline.web.dagster_client import Dagster
from voiceai_pipeline.web.serving import listen, serve_in_thread, serve_until_stopped
from voiceai_pipeline.web.site import Site

ACTOR = "connections page"


@dataclass(frozen=True)
class RunningPage:
    """A page that answers at ``url``."""

    url: str
    site: Site


def open_site(settings: Settings, pipeline: Pipeline, dagster_url: str | None = None) -> Site:
    """The parts of the page.

    Args:
        dagster_url: where Dagster is asked; None: where people find it.
    """
    return Site(
        pipeline=pipeline,
        highlevel=settings.highlevel,
        page=settings.page,
        dagster=Dagster(dagster_url or settings.page.dagster_url),
        seal=Seal(settings.page.secret),
    )


def serve(settings: Settings, dagster_url: str | None, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then return.

    Raises:
        OSError: the address cannot be had (somebody else listens on the port).
        SettingsError, PostgresError: with what to do.
    """
    with (
        contextlib.closing(listen(settings.page.host, settings.page.port)) as listener,
        open_pipeline(settings, actor=Actor(ACTOR)) as pipeline,
    ):
        site = open_site(settings, pipeline, dagster_url)
        told = alert_delivery.channels(settings.alerts)
        watch = Watch(pipeline.engine, site.dagster.last_sign_of_life, told, settings.page)
        with watching(watch):
            serve_until_stopped(create_app(site), listener, ready=ready)


@contextlib.contextmanager
def running(site: Site, listener: socket.socket) -> Iterator[RunningPage]:
    """The page in a background thread, on a socket that listens already."""
    with serve_in_thread(create_app(site), listener, "page") as url:
        yield RunningPage(url, site)
