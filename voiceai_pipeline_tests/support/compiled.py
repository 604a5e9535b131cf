"""SQL statements compiled once for all tests.

A database per test means an engine per test, and each would compile every statement again, which
takes longer than most tests.
"""

import sqlalchemy as sa

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine


def open_compiler(url: Secret) -> sa.Engine:
    """An engine that knows its server, and has no connection open."""
    engine = open_engine(url)
    engine.connect().close()
    engine.dispose()
    return engine


def use_compiled(engine: sa.Engine, compiler: sa.Engine) -> None:
    """Let ``engine`` use what ``compiler`` and others like it have compiled."""
    # SQLAlchemy looks a compiled statement up by its dialect, among other things.
    engine.dialect, engine._compiled_cache = compiler.dialect, compiler._compiled_cache
