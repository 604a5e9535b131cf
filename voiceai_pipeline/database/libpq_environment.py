"""Keeps the shell's variables for PostgreSQL's own client from choosing another server or session.

Without SQLAlchemy, because the embedded server's watchdog needs it too and stays small that way.
"""

import os
from typing import Final

from psycopg import pq

_PASSWORDS: Final = ("PGPASSWORD", "PGPASSFILE")
"""The variables of libpq that stay in force: they can only open the door, not choose another."""

_UNLISTED: Final = (
    "PGTZ",
    "PGDATESTYLE",
    "PGGEQO",
    "PGSYSCONFDIR",
    "PGSERVICEFILE",
    "PGREQUIRESSL",
)
"""Variables that libpq reads besides those of its parameters."""


def ignore_environment() -> None:
    """Remove libpq's variables from the environment, of this process and those it starts.

    No parameter beats PGSERVICE, PGHOSTADDR or PGTZ, so they have to go.
    """
    listed = (option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar)
    for name in {*listed, *_UNLISTED} - {*_PASSWORDS}:
        os.environ.pop(name, None)
