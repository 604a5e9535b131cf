"""Adds a user if no other application manages users: for your own location or a first trial."""

from typing import Final
from uuid import UUID, uuid4

import sqlalchemy as sa

from voiceai_pipeline.connections import queries
from voiceai_pipeline.core.foreign_text import NAME_LENGTH, cleaned

_ONE_AT_A_TIME: Final = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('new user', 0))")
"""So that two requests with one name, such as a form sent twice, add only one user."""


class NewUserError(Exception):
    """The user was not added; the text says why and what to do."""


def new_user(engine: sa.Engine, name: str) -> UUID:
    """Add a user with this name; return the new id.

    Raises:
        NewUserError: the name is taken or empty, or the table ``users`` belongs to another
            application and we cannot add rows.
    """
    name = cleaned(name, NAME_LENGTH).strip()
    if not name:
        raise NewUserError("Enter a name, such as that of the business.")
    user_id = uuid4()
    try:
        with engine.begin() as db:
            db.execute(_ONE_AT_A_TIME)
            taken = {one.user.name.casefold() for one in queries.all_connections(db)}
            if name.casefold() in taken:
                raise NewUserError(f"There is a user {name} already.")
            queries.add_user(db, user_id, business_name=name)
    except (sa.exc.IntegrityError, sa.exc.ProgrammingError):
        raise NewUserError(
            "The table users belongs to another application: it requires values that only that one "
            "knows, or we may not write to it. Add the user there; it appears here immediately."
        ) from None
    return user_id
