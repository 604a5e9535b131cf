"""`python -m voiceai_pipeline.web`: the page as a process of its own, as `make up` starts it."""

import argparse
import logging
import os
import sys

import dotenv
import sqlalchemy as sa

from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError
from voiceai_pipeline.database.embedded import PostgresError
from voiceai_pipeline.database.engine import database_sentence
from voiceai_pipeline.web.server import serve

log = logging.getLogger("voiceai_pipeline.web")


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; 0 after a clean stop, 1 with a sentence if it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m voiceai_pipeline.web", description=__doc__)
    parser.add_argument(
        "--dagster", metavar="URL", help="where to ask Dagster; default: VOICEAI_DAGSTER_URL"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    dotenv.load_dotenv(".env")
    try:
        settings = Settings.load(os.environ)
        page = settings.page
        serve(settings, given.dagster, lambda: log.info("The page listens at %s", page.url))
    except (SettingsError, PostgresError) as problem:
        return _stop(str(problem))
    except sa.exc.DBAPIError as error:
        return _stop(database_sentence(error))
    except OSError as error:
        return _stop(
            f"The page cannot use {page.host}:{page.port}: {error.strerror}. Stop the program that "
            "uses it, or set VOICEAI_PAGE_PORT to another port."
        )
    return 0


def _stop(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
