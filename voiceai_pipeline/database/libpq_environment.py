"""Keeps the shell's libpq variables from selecting another server or changing the session.

Does not import SQLAlchemy, because the embedded server's watchdog needs it too and must stay small.
"""

import os
from typing import Final

from psycopg import pq

_PASSWORDS: Final = ("PGPASSWORD", "PGPASSFILE")
"""libpq's variables that stay in force: they can give a password, but not select a server."""

_UNLISTED: Final = (
    "PGTZ",
    "PGDATESTYLE",
    "PGGEQO",
    "PGSYSCONFDIR",
    "PGSERVICEFILE",
    "PGREQUIRESSL",
)
"""Variables that libpq reads in addition to those of its parameters."""


def ignore_environment() -> None:
    """Remove libpq's variables from the environment of this process and of those it starts.

    Parameters do not override PGSERVICE, PGHOSTADDR or PGTZ, so these must be removed.
    """
    listed = (option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar)
    for name in {*listed, *_UNLISTED} - {*_PASSWORDS}:
        os.environ.pop(name, None)
