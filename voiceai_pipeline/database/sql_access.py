"""Lets SQL tools on this machine read the embedded server over TCP, if VOICEAI_SQL_PORT is set.

The server accepts only one login over TCP, which has an analyst's rights and a generated password
(``embedded_server.py`` writes who may connect). The password is in a file that libpq reads, and
thus psql and most tools: it is never printed and never on a command line.
"""

import secrets
from pathlib import Path
from typing import Final, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql

from voiceai_pipeline.core.private_file import write_private
from voiceai_pipeline.database import grants
from voiceai_pipeline.database.embedded_server import DATABASE, SQL_USER

_FILE: Final = "sql.pgpass"
_MAX_CONNECTIONS: Final = 20
_MAX_STATEMENT: Final = "5min"


def password_file(home: Path) -> Path:
    """The path of the password file, in libpq's format: the password is the last field."""
    return home / _FILE


def url(home: Path, port: int) -> str:
    """The URL for SQL tools. It names the password file instead of the password."""
    return (
        f"postgresql://{SQL_USER}@127.0.0.1:{port}/{DATABASE}"
        f"?passfile={password_file(home).as_posix()}"
    )


def obstacle(db: sa.Connection, port: int) -> str | None:
    """Why SQL tools cannot connect to ``port``, as a sentence with the fix; None if they can."""
    listening = db.execute(sa.text("SHOW listen_addresses")).scalar_one()
    if not listening or db.execute(sa.text("SHOW port")).scalar_one() != str(port):
        return (
            f"The embedded PostgreSQL was started without VOICEAI_SQL_PORT={port}. Stop every "
            "program that uses this VOICEAI_HOME, then start again."
        )
    if grants.ANALYST in grants.missing_roles(db):
        return grants.missing_roles_text([grants.ANALYST])
    return None


def allow(db: sa.Connection, home: Path, port: int) -> None:
    """Create the login if missing, and set its password to the file's; create the file if missing.

    Args:
        db: a connection to our database, migrated.

    Raises:
        OSError: the file cannot be written.
    """
    password = _password(home) or secrets.token_urlsafe(24)
    line = f"127.0.0.1:{port}:{DATABASE}:{SQL_USER}:{password}\n"
    path = password_file(home)
    if not path.is_file() or path.read_text(encoding="utf-8") != line:
        write_private(path, line)
    # Hashed here: no statement holds the password.
    raw = cast("psycopg.Connection", db.connection.driver_connection)
    verifier = raw.pgconn.encrypt_password(password.encode(), SQL_USER.encode(), b"scram-sha-256")
    db.execute(sa.text(_CREATE))
    raw.execute(
        sql.SQL("ALTER ROLE {} LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
            sql.Identifier(SQL_USER), _MAX_CONNECTIONS, verifier.decode()
        )
    )


def _password(home: Path) -> str | None:
    """The password in the file; None if there is no file, or it has none."""
    path = password_file(home)
    if not path.is_file():
        return None
    return path.read_text(encoding="utf-8").strip().rpartition(":")[2] or None


_CREATE: Final = f"""
DO $voiceai$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SQL_USER}') THEN
        CREATE ROLE {SQL_USER};
    END IF;
    GRANT {grants.ANALYST} TO {SQL_USER};
    ALTER ROLE {SQL_USER} SET default_transaction_read_only = on;
    ALTER ROLE {SQL_USER} SET statement_timeout = '{_MAX_STATEMENT}';
    ALTER ROLE {SQL_USER} SET search_path = voiceai;
END
$voiceai$
"""
