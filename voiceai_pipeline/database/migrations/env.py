"""Alembic's entry point: runs on the connection that ``database.migrate`` hands over."""

from alembic import context

from voiceai_pipeline.database.tables import VERSION_TABLE, metadata

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql", version_table=VERSION_TABLE, dialect_opts={"paramstyle": "named"}
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
    )
    context.run_migrations()
