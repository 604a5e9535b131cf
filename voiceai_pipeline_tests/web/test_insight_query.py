"""The address of the insights: which days, and which days they are compared with."""

from datetime import date
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.datastructures import QueryParams

from voiceai_pipeline.marts.insights import Days
from voiceai_pipeline.web.insight_query import InsightQuery, calls_address

TODAY = date(2026, 11, 25)  # a Wednesday


@pytest.mark.parametrize(
    ("address", "days", "before"),
    [
        ("", ("2026-11-18", "2026-11-24"), ("2026-11-11", "2026-11-17")),
        ("days=week", ("2026-11-23", "2026-11-24"), ("2026-11-16", "2026-11-17")),
        ("days=lastweek", ("2026-11-16", "2026-11-22"), ("2026-11-09", "2026-11-15")),
        ("days=28d", ("2026-10-28", "2026-11-24"), ("2026-09-30", "2026-10-27")),
        ("from=2026-11-10&to=2026-11-19", ("2026-11-10", "2026-11-19"),
         ("2026-10-27", "2026-11-05")),
        ("from=2026-11-10", ("2026-11-10", "2026-11-10"), ("2026-11-03", "2026-11-03")),
    ],
)  # fmt: skip
def test_days_are_compared_with_the_same_weekdays_before(
    address: str, days: tuple[str, str], before: tuple[str, str]
) -> None:
    scope = InsightQuery.of(QueryParams(address)).scope(TODAY)
    assert scope.days == Days(*map(date.fromisoformat, days))
    assert scope.before == Days(*map(date.fromisoformat, before))
    assert scope.days.first.weekday() == scope.before.first.weekday()


@pytest.mark.parametrize(
    ("address", "days"),
    [
        ("from=2026-11-20&to=2026-11-25", ("2026-11-20", "2026-11-24")),
        ("from=2026-11-20&to=2026-12-31", ("2026-11-20", "2026-11-24")),
        ("from=2026-11-25", ("2026-11-25", "2026-11-25")),
        ("from=2026-11-25&to=2026-11-26", ("2026-11-25", "2026-11-26")),
    ],
)
def test_a_day_that_is_not_over_is_left_out_and_alone_compares_with_nothing(
    address: str, days: tuple[str, str]
) -> None:
    query = InsightQuery.of(QueryParams(address))
    scope = query.scope(TODAY)
    assert scope.days == Days(*map(date.fromisoformat, days))
    assert bool(scope.before.count) == (scope.days.last < TODAY)
    assert query.asks_for(TODAY)
    assert not query.asks_for(date(2026, 11, 19))
    monday = date(2026, 11, 23)
    assert InsightQuery("week").scope(monday).days == Days(monday, monday)


def test_what_is_not_understood_is_left_out_and_said() -> None:
    given = "days=ever&from=soon&rank=luck&agent=a1&to=0001-01-01"
    query = InsightQuery.of(QueryParams(given))
    assert query == InsightQuery()
    assert len(query.complaints) == 3
    turned = InsightQuery.of(QueryParams("from=2026-11-20&to=2025-11-10"))
    assert (turned.first, turned.last) == (date(2026, 8, 21), date(2026, 11, 20))
    assert len(turned.complaints) == 2
    for location in ("a%00b", "x" * 501):
        odd = InsightQuery.of(QueryParams(f"location={location}&agent=a"))
        assert odd == InsightQuery()
        assert len(odd.complaints) == 1


def test_an_address_says_what_it_shows_again() -> None:
    query = InsightQuery.of(QueryParams("from=2026-11-10&to=2026-11-12&location=Loc 1&agent=a&b"))
    again = InsightQuery.of(QueryParams(urlsplit(query.address(rank="calls")).query))
    assert again == InsightQuery("", query.first, query.last, "Loc 1", "a", "calls")


def test_the_calls_behind_a_number_have_its_days_location_and_agent() -> None:
    scope = InsightQuery.of(QueryParams("location=Loc&agent=a 1")).scope(TODAY)
    parts = urlsplit(calls_address(scope, more={"outcome": "goal", "max": None}))
    assert parts.path == "/calls"
    assert parse_qs(parts.query) == {
        "from": ["2026-11-18"], "to": ["2026-11-24"], "location": ["Loc"], "agent": ["a 1"],
        "outcome": ["goal"],
    }  # fmt: skip
