"""Migrates a database to the current schema: an empty one, an older one, or the source system's.

Only ``upgrade`` alters anything. For an incompatible database it raises one error that names all
obstacles (``adoption.py``), before the first change.
"""

import re
from io import StringIO
from pathlib import Path
from typing import Final

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from voiceai_pipeline.database import (
    app_role,
    comments,
    grants,
    row_security,
    view_sources,
    views,
)
from voiceai_pipeline.database.adoption import OURS, not_ours, schema_obstacles, table_obstacles
from voiceai_pipeline.database.tables import VERSION_TABLE

_LOCK: Final = 0x766F69636561  # "voicea": one migration at a time


class IncompatibleDatabaseError(Exception):
    """The database has tables that can be neither adopted nor created; nothing was changed."""


def current(db: sa.Connection) -> str | None:
    """The revision the database is at; None before the first migration."""
    context = MigrationContext.configure(db, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def head() -> str:
    """The revision this code needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:  # pragma: no cover - a package without its migrations
        raise RuntimeError("the package has no migrations; install it again")
    return revision


def is_current(db: sa.Connection) -> bool:
    return current(db) == head()


def is_behind(db: sa.Connection) -> bool:
    """True if a migration is pending. A database that newer code has migrated is not behind: older
    processes read it while they are being replaced."""
    revision = current(db)
    if revision is None:
        return True
    known = [one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions()]
    return revision in known[1:]


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Create what is missing and adopt what exists, in one transaction.

    Args:
        revision: the target; tests use older ones.

    Raises:
        IncompatibleDatabaseError: names every table and column that prevents it.
    """
    with engine.begin() as db:
        db.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        obstacles = table_obstacles(db) if current(db) is None else []
        obstacles += schema_obstacles(db)
        obstacles += row_security.obstacles(db)
        if obstacles:
            raise IncompatibleDatabaseError(
                "This database cannot be adopted; nothing was changed. " + " ".join(obstacles)
            )
        config = _config()
        config.attributes["connection"] = db
        try:
            command.upgrade(config, revision)
        except sa.exc.ProgrammingError as error:
            if taken := _taken(error):
                raise IncompatibleDatabaseError(
                    f"This database cannot be upgraded; nothing was changed. {not_ours(taken)}"
                ) from None
            raise
        if is_current(db):
            for statement in _after_the_last_revision():
                # Otherwise psycopg would read % as a placeholder.
                db.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _taken(error: sa.exc.ProgrammingError) -> str | None:
    """The name of a table of ours that is already taken; None if something else failed."""
    if not isinstance(error.orig, psycopg.errors.DuplicateTable):
        return None
    # The server's message is in its own language, so only the name in it is searched for.
    said = error.orig.diag.message_primary or ""
    return next((name for name in OURS if re.search(rf"\b{name}\b", said)), None)


def upgrade_sql() -> str:
    """The SQL that ``upgrade`` runs on an unmigrated database, for review."""
    text = StringIO()
    config = _config(output=text)
    command.upgrade(config, "head", sql=True)
    after = ";\n\n".join(statement.strip() for statement in _after_the_last_revision())
    return f"{text.getvalue()}BEGIN;\n\n{after};\n\nCOMMIT;\n"


def _after_the_last_revision() -> list[str]:
    """The repeatable statements that depend on the code, not on a revision: views, comments,
    grants."""
    created = [view.statement for view in views.VIEWS]
    return [
        view_sources.SCHEMA_STATEMENT,
        *view_sources.statements(),
        *created,
        comments.statement(),
        *grants.statements(),
        *app_role.statements(),
    ]


def _config(output: StringIO | None = None) -> Config:
    config = Config(output_buffer=output) if output else Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
