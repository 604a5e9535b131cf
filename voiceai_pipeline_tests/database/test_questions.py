"""The queries of docs/questions.md, as an analyst runs them on a filled database."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import MetricRules
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.database.views import VIEWS
from voiceai_pipeline.marts.build import Marts
from voiceai_pipeline_tests.support.analysts import add_connection, read
from voiceai_pipeline_tests.support.dbt_sources import KEYS
from voiceai_pipeline_tests.support.mart_calls import DAY, Book

PAGE = (PROJECT / "docs" / "questions.md").read_text()
QUESTIONS = re.findall(r"^\*\*(\d+)\. [^*]+\?\*\*.*?\n\n```sql\n(.*?)```", PAGE, re.S | re.M)


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres, template: str) -> Iterator[Secret]:
    """Five weeks of two locations, one of which two users share, and a day that failed."""
    postgres.create_database("questions", template=template)
    url = Secret(postgres.url("questions"))
    engine = open_engine(url)
    book, today = Book(engine), datetime.now(UTC).date()
    first = today - 34 * DAY
    for place, zone in (("LocA", "America/New_York"), ("LocB", None)):
        book.location(place, zone)
        book.read(place, first, today)
        book.at_random(place, first, today, 200)
    for _ in range(2):
        noon = datetime.combine(today, time(12), UTC)
        book.call("LocB", noon, contact_id="contact-again")
    book.read("LocB", today - DAY, today - DAY, state="failed")
    with engine.begin() as db:
        for number, name in enumerate(("Ash", "Birch")):
            add_connection(db, number, name, location_id="LocA")
        recent = "UPDATE call_logs SET last_changed_at = now() WHERE call_id = 'call-7'"
        db.execute(sa.text(recent))
    days = [first + n * DAY for n in range(35)]
    built = Marts(engine, ZoneInfo("UTC"), MetricRules()).build(days)
    assert built.disagreements + built.failures == ()
    engine.dispose()
    yield url
    postgres.drop_database("questions")


def test_there_are_twenty_questions() -> None:
    assert [int(number) for number, _ in QUESTIONS] == list(range(1, 21))
    assert PAGE.count("```sql") == len(QUESTIONS)


@pytest.mark.parametrize(("number", "query"), QUESTIONS, ids=[n for n, _ in QUESTIONS])
def test_every_question_has_an_answer_for_an_analyst(
    filled: Secret, logins: None, number: str, query: str
) -> None:
    assert read("ada", filled, query) != []


def test_the_keys_that_dbt_tests_are_those_of_the_views(filled: Secret, logins: None) -> None:
    assert KEYS.keys() == {view.name for view in VIEWS}
    for view, key in KEYS.items():
        columns = ", ".join(key)
        twice = f"SELECT FROM voiceai.{view} GROUP BY {columns} HAVING count(*) > 1"
        assert read("bea", filled, twice) == [], view


def test_calls_counted_by_user_day_and_pseudonym_are_those_of_the_marts(
    filled: Secret, logins: None
) -> None:
    (calls,) = read(
        "ada",
        filled,
        "SELECT count(DISTINCT (location_id, call_id)), "
        "(SELECT sum(calls) FROM voiceai.daily_call_metrics) AS of_days, "
        "count(DISTINCT (location_id, caller_pseudonym)) FILTER (WHERE caller_pseudonym <> '' "
        "AND local_day = current_date - 2) AS callers, "
        "(SELECT sum(unique_callers) FROM voiceai.daily_call_metrics "
        "WHERE day = current_date - 2) AS callers_of_day FROM voiceai.calls",
    )
    assert calls["callers"] == calls["callers_of_day"] > 0
    # Of 35 days: calls at the edges have another local day.
    assert 0 <= calls["count"] - calls["of_days"] < 20
