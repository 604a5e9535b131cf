"""The SQL statements that an engine executes, for tests that count them or look at their values."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


@contextmanager
def counted(engine: sa.Engine) -> Iterator[list[str]]:
    """Collects the statements that are executed."""
    statements: list[str] = []

    def note(_db: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield statements
    sa.event.remove(engine, "before_cursor_execute", note)


@contextmanager
def bound(engine: sa.Engine) -> Iterator[list[str]]:
    """Collects the statements that are executed, each with its values: what PostgreSQL's log holds
    where it is set to log statements."""
    said: list[str] = []

    def note(_db: object, _cursor: object, statement: str, values: object, *_rest: object) -> None:
        said.append(f"{statement} {values}")

    sa.event.listen(engine, "before_cursor_execute", note)
    yield said
    sa.event.remove(engine, "before_cursor_execute", note)
