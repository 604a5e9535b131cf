"""For the pages of calls: an index for the list, calls' words, and a record of openings."""

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    # In place of one that knows less: each call still costs one entry.
    op.execute(
        "CREATE INDEX call_logs_list_idx ON call_logs (location_id, started_at, call_id) "
        "INCLUDE (agent_id, duration_seconds, is_trial, missing_since, first_seen_at)"
    )
    op.execute("DROP INDEX call_logs_location_id_started_at_idx")
    op.execute(
        "CREATE INDEX call_logs_last_changed_at_idx ON call_logs USING brin (last_changed_at)"
    )
    op.execute(
        """
        CREATE TABLE call_words (
            location_id text NOT NULL,
            call_id text NOT NULL,
            started_at timestamptz NOT NULL,
            changed_at timestamptz NOT NULL,
            words tsvector NOT NULL,
            PRIMARY KEY (location_id, call_id)
        )
        """
    )
    op.execute("CREATE INDEX call_words_words_idx ON call_words USING gin (words)")
    op.execute("CREATE INDEX call_words_changed_at_idx ON call_words (changed_at)")
    op.execute("CREATE INDEX call_words_started_at_idx ON call_words (started_at)")
    op.execute(
        """
        CREATE TABLE content_openings (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            at timestamptz NOT NULL,
            role text NOT NULL,
            visitor text NOT NULL,
            kind text NOT NULL,
            location_id text,
            call_id text,
            calls bigint NOT NULL
        )
        """
    )
    op.execute(
        "CREATE INDEX content_openings_call_idx ON content_openings (location_id, call_id, id)"
    )
