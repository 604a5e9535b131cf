"""Detects row level security that hides rows of the source system's tables from us.

A hidden row looks like a user who does not exist: "0 users, all well". So this is checked before
users are read, and a policy counts only if it clearly allows all rows.
"""

from typing import Final

import sqlalchemy as sa

from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.database.schema import ADOPTED

_HIDING: Final = sa.text(
    """
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
           quote_ident(current_user) AS me
    FROM unnest(CAST(:tables AS text[])) WITH ORDINALITY AS t(name, place)
    JOIN pg_class c ON c.oid = to_regclass(t.name)
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE row_security_active(c.oid)
      AND NOT (
          EXISTS (
              SELECT FROM pg_policy p
              WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd = '*'
                AND (p.polroles = ARRAY[0::oid]
                     OR EXISTS (SELECT FROM unnest(p.polroles) r WHERE pg_has_role(r, 'USAGE')))
                AND pg_get_expr(p.polqual, p.polrelid) = 'true'
                AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true'
          )
          AND NOT EXISTS (
              SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive
          )
      )
    ORDER BY t.place
    """
)


def obstacles(db: sa.Connection) -> list[str]:
    """A sentence for each table whose rows may be hidden, with the statement that shows them."""
    return [
        f"Row level security hides rows of {row.name} from this user. Ask the table's owner to "
        f"run: {_opening(row)}"
        for row in db.execute(_HIDING, {"tables": list(ADOPTED)})
    ]


def refuse_hidden_rows(db: sa.Connection) -> None:
    """Check that all rows can be read.

    Raises:
        PipelineError: ROWS_HIDDEN, with the statements that grant access.
    """
    hiding = db.execute(_HIDING, {"tables": list(ADOPTED)}).all()
    if hiding:
        raise PipelineError(FailureClass.ROWS_HIDDEN, " ".join(map(_opening, hiding)))


def _opening(row: sa.Row[tuple[str, str]]) -> str:
    return f"CREATE POLICY voiceai_pipeline ON {row.name} TO {row.me} USING (true);"
