"""Adding users where another application owns the table."""

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections.new_users import NewUserError, new_user


def test_a_table_that_demands_more_than_we_know_says_where_to_add_the_user(
    engine: sa.Engine,
) -> None:
    with engine.begin() as db:
        db.execute(sa.text("ALTER TABLE users ADD COLUMN email text"))
        db.execute(sa.text("ALTER TABLE users ADD CHECK (email IS NOT NULL) NOT VALID"))

    with pytest.raises(NewUserError, match="Add the user there"):
        new_user(engine, "Oak")
    with engine.begin() as db:
        assert db.execute(sa.text("SELECT count(*) FROM users")).scalar() == 0
