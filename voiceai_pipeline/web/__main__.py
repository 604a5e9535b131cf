"""`python -m voiceai_pipeline.web`: serves the pages, does what HighLevel's messages ask for, keeps
the full-text index of calls, and monitors Dagster's daemon."""

import argparse
import contextlib
import logging
import os
import sys

import sqlalchemy as sa

from voiceai_pipeline.connections import alert_channels
from voiceai_pipeline.connections.history import Actor
from voiceai_pipeline.core import env_file
from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database.embedded_server import PostgresError
from voiceai_pipeline.database.engine import database_sentence
from voiceai_pipeline.pipeline import open_pipeline
from voiceai_pipeline.web.app import create_app
from voiceai_pipeline.web.daemon_monitor import DaemonMonitor, monitoring
from voiceai_pipeline.web.hint_reader import reading
from voiceai_pipeline.web.server import listen, serve_until_stopped
from voiceai_pipeline.web.site import ACTOR, DAGSTER_UI, open_site
from voiceai_pipeline.web.sync_watch import watching
from voiceai_pipeline.web.word_keeper import keeping_words

log = logging.getLogger("voiceai_pipeline.web")


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped.

    Returns:
        0 after a clean stop, 1 with a message on stderr if it cannot start.
    """
    parser = argparse.ArgumentParser(prog="python -m voiceai_pipeline.web", description=__doc__)
    parser.add_argument(
        "--dagster",
        metavar="URL",
        help=f"where Dagster's UI process listens; default: VOICEAI_DAGSTER_URL, or {DAGSTER_UI}",
    )
    parser.add_argument(
        "--dagster-for-analysts",
        metavar="URL",
        help="where Dagster's UI process for analysts listens; default: the same process",
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        env_file.load()
        settings = Settings.load(os.environ)
        page = settings.page
        _serve(settings, given.dagster, given.dagster_for_analysts)
    except (SettingsError, PostgresError) as problem:
        return _stop(str(problem))
    except sa.exc.DBAPIError as error:
        return _stop(database_sentence(error))
    except OSError as error:
        return _stop(
            f"The page cannot listen on {page.host}:{page.port}: {error.strerror}. Stop the "
            "program that uses the port, or set VOICEAI_PAGE_PORT to another one."
        )
    return 0


def _serve(settings: Settings, dagster: str | None, dagster_for_analysts: str | None) -> None:
    page = settings.page
    with (
        contextlib.closing(listen(page.host, page.port)) as listener,
        open_pipeline(settings, actor=Actor(ACTOR)) as pipeline,
    ):
        site = open_site(settings, pipeline, dagster, dagster_for_analysts)
        channels = alert_channels.channels(settings.alerts)
        last_sign = site.dagster.last_sign_of_life
        with (
            monitoring(DaemonMonitor(pipeline.engine, last_sign, channels, page)),
            reading(pipeline, site.inbox),
            watching(site.watch),
            keeping_words(pipeline.engine),
        ):
            log.info("The page listens at %s", page.url)
            serve_until_stopped(
                create_app(site),
                listener,
                stopping=site.watch.end,
                websockets=True,
                trusted_proxies=page.trusted_proxies,
            )


def _stop(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
