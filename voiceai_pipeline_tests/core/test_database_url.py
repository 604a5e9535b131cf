"""URLs of databases as they are pasted from other tools."""

import pytest

from voiceai_pipeline.core.database_url import database_url_of
from voiceai_pipeline.core.settings_parsing import SettingsError

NAME = "VOICEAI_DATABASE_URL"
HOST = "postgres.abc:secret@db.example.test:6543/postgres"


def read(url: str, driver: str = "psycopg") -> str:
    found = database_url_of({NAME: url}, NAME, driver)
    assert found is not None
    return found.reveal()


@pytest.mark.parametrize(
    ("given", "query"),
    [
        (f"postgres://{HOST}", ""),
        (f"postgresql+asyncpg://{HOST}", ""),
        (f'"postgres://{HOST}"', ""),
        (f"postgres://{HOST}?pgbouncer=true&connection_limit=1&pool_timeout=0", ""),
        (f"postgres://{HOST}?sslmode=require&supa=base-pooler.x", "?sslmode=require"),
        (f"postgres://{HOST}?sslmode=no-verify", "?sslmode=require"),
        (f"postgres://{HOST}?ssl=true", "?sslmode=require"),
        (f"postgres://{HOST}?schema=public", "?options=-c%20search_path%3D%22public%22"),
        (
            f"postgres://{HOST}?options=reference%3Dabc&schema=a",
            "?options=reference%3Dabc%20-c%20search_path%3D%22a%22",
        ),
        (f"postgres://{HOST}?Connect_Timeout=3", "?connect_timeout=3"),
    ],
)
def test_what_other_clients_write_means_the_same_here(given: str, query: str) -> None:
    assert read(given) == f"postgresql+psycopg://{HOST}{query}"
    assert read(given, "psycopg2") == f"postgresql+psycopg2://{HOST}{query}"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("sslaccept=strict", "sslaccept"),
        ("sslmode=secret", "sslmode"),
        ("schema=a;secret", "schema"),
        ("wo%20rd=secret", "one with an odd name"),
    ],
)
def test_a_parameter_that_means_nothing_is_named_without_its_value(query: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(f"postgres://{HOST}?{query}")
    assert named in str(caught.value)
    assert str(caught.value).startswith(NAME)
    assert "secret" not in str(caught.value)


def test_a_placeholder_for_the_password_is_said_before_it_is_tried() -> None:
    with pytest.raises(SettingsError, match=r"placeholder .* \[YOUR-PASSWORD\]"):
        read("postgresql://postgres.abc:[YOUR-PASSWORD]@db.example.test:6543/postgres")
