"""Updates stored rows to what this version would store, and shows progress on the terminal."""

import sqlalchemy as sa

from voiceai_pipeline.calls import stored_redaction, stored_values
from voiceai_pipeline.cli.progress import rows_bar


def change_stored_rows(engine: sa.Engine) -> int:
    """Update the rows of older versions; return how many were redacted."""
    with rows_bar("Redacting") as show:
        redacted = stored_redaction.redact_again(engine, show)
    with rows_bar("Storing values once") as show:
        stored_values.store_once(engine, show)
    return redacted
