"""The page of insights: what it shows is in the marts, and each number leads to its calls."""

import html
import re
from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from starlette.datastructures import QueryParams

from voiceai_pipeline.calls import call_search
from voiceai_pipeline.web import call_scope
from voiceai_pipeline.web.call_query import CallQuery
from voiceai_pipeline.web.insight_numbers import UNKNOWN
from voiceai_pipeline_tests.support.installation import Installation
from voiceai_pipeline_tests.support.mart_calls import DAY, Book

LOCATION = "LocHere"


@pytest.fixture
def shop(installation: Installation) -> Installation:
    """A location whose agent booked 3 of 25 calls a week ago, and 24 of 25 since; and more."""
    engine, today = installation.pipeline.engine, today_of()
    book = Book(engine)
    book.location(LOCATION, "America/New_York")
    book.location("LocNew", "UTC")
    book.read(LOCATION, today - 16 * DAY, today)
    book.read("LocNew", today - 3 * DAY, today)
    booked = [{"actionType": "APPOINTMENT_BOOKING"}]
    noon = datetime.combine(today, time(17), UTC)
    for number in range(25):
        for ago, bookings in ((2, 24), (9, 3)):
            at = noon - ago * DAY + timedelta(seconds=number)
            actions = booked if number < bookings else []
            book.call(
                LOCATION, at, executed_call_actions=actions, duration_seconds=30,
                extracted_data={"reason": "visit"} if number < 5 else None,
                translation={"language": "es"} if number < 2 else None,
            )  # fmt: skip
    book.call("LocNew", noon - 2 * DAY, agent_id="agent-gone")
    with engine.begin() as db:
        db.exec_driver_sql(
            "INSERT INTO agent_names SELECT location_id, agent_id, first_seen_at, 'Robin <b>&' "
            "FROM voiceai_agents WHERE agent_id = 'agent-days'"
        )
    installation.pipeline.marts.build([today - n * DAY for n in range(15)])
    return installation


def today_of() -> date:
    """Today where it begins last: a day compares once it is over at every location."""
    return datetime.now(ZoneInfo("America/New_York")).date()


def page(installation: Installation, address: str = "") -> str:
    with installation.visitor() as visitor:
        answer = visitor.get(f"/insights{address}")
    assert answer.status_code == 200
    return answer.text


def plain(text: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)))


def test_the_agent_who_booked_most_and_how_much_more_than_before_is_on_top(
    shop: Installation,
) -> None:
    text = page(shop)
    today = today_of()
    ranking = text[text.index('id="agents"') :]
    first = plain(ranking[ranking.index("<tbody>") : ranking.index("</tr>", 2_000)])
    assert "Robin <b>& LocHere Ltd 24 96 % ▲ +21 (+700 %) 25 no change 13 no change" in first
    assert "&lt;b&gt;&amp;" in ranking
    days = f"from={today - 7 * DAY}&amp;to={today - DAY}"
    booked = f'href="/calls?{days}&amp;location=LocHere&amp;agent=agent-days&amp;outcome=goal"'
    assert f"<a {booked}>24</a>" in ranking


def test_a_total_is_the_sum_of_the_mart_and_leads_to_its_calls(shop: Installation) -> None:
    text, today = page(shop, f"?location={LOCATION}"), today_of()
    with shop.pipeline.engine.begin() as db:
        query = "SELECT sum(calls), sum(goal_calls), round(sum(talk_seconds) / 60) FROM "
        where = "WHERE location_id = :id AND day BETWEEN :first AND :last"
        values = {"id": LOCATION, "first": today - 7 * DAY, "last": today - DAY}
        sums = db.execute(sa.text(f"{query} daily_call_metrics {where}"), values).one()
    numbers = re.findall(r'<p class="value"><a href="([^"]+)">([\d,]+)</a></p>', text)
    assert [int(number) for _, number in numbers[:2]] == [sums[0], sums[2]]
    assert (html.unescape(numbers[3][0]), int(numbers[3][1])) == (
        f"/calls?from={today - 7 * DAY}&to={today - DAY}&location=LocHere&outcome=goal",
        sums[1],
    )
    assert "in America/New_York" in text
    assert "The call is engaged: at least 2 caller turns and 10 seconds." in text
    assert text.count('role="img"') == 6
    assert "<script" not in text
    assert "style=" not in text


def test_every_number_leads_to_as_many_calls(shop: Installation) -> None:
    engine, today = shop.pipeline.engine, today_of()
    Book(engine, seed=5, _calls=1_000).at_random(LOCATION, today - 14 * DAY, today - DAY, 250)
    shop.pipeline.marts.build([today - n * DAY for n in range(16)])
    checked = 0
    for address in ("", f"?location={LOCATION}&agent=agent-days"):
        counts: dict[str, set[int]] = {}
        links = re.findall(r'href="(/calls[^"]+)"[^>]*>([\d,]+)</a>', page(shop, address))
        for href, number in links:
            counts.setdefault(html.unescape(href), set()).add(int(number.replace(",", "")))
        for href, numbers in counts.items():
            query = CallQuery.of(QueryParams(urlsplit(href).query))
            with engine.begin() as db:
                wanted = call_scope.read_scope(db, shop.site, query, content=True).wanted
                found = call_search.exact_count(db, wanted)
            # The minutes of these calls lead to them too.
            assert not query.complaints
            assert found in numbers, href
            assert len(numbers) <= 2, href
            checked += 1
    assert checked > 100


def test_days_that_were_not_read_are_said_and_shown_as_a_dash(shop: Installation) -> None:
    text = plain(page(shop, "?location=LocNew"))
    assert "of these days were never read." in text
    assert "7 of the days before were never read." in text
    assert f"Calls 1 {UNKNOWN} from {UNKNOWN} " in text
    assert f"Engaged 1 {UNKNOWN} from {UNKNOWN} 100 % few 1 of 1 calls" in text
    nothing = plain(page(shop, "?from=2020-01-01&to=2020-01-07"))
    assert "Nothing was computed for these days" in nothing
    assert "There is no such location." in plain(page(shop, "?location=LocElse"))


def test_an_agents_own_page_has_its_hours_in_the_locations_zone(shop: Installation) -> None:
    text = page(shop, f"?location={LOCATION}&agent=agent-days")
    day: date = today_of() - 2 * DAY
    assert f"Most calls: {day:%a} 12:00 to 13:00, 25." in text  # 17:00 UTC in winter
    assert f"weekday={day.isoweekday()}&amp;hour=12" in text
    assert "This location has no such agent" in plain(page(shop, f"?location={LOCATION}&agent=x"))


def test_a_day_that_is_not_over_is_left_out_of_every_comparison(shop: Installation) -> None:
    today = today_of()
    now = datetime.now(UTC) - timedelta(seconds=1)
    Book(shop.pipeline.engine, _calls=900).call(LOCATION, now)
    shop.pipeline.marts.build([today - DAY, today])
    text = plain(page(shop, f"?location={LOCATION}&from={today - 3 * DAY}&to={today}"))
    assert f"{today - 3 * DAY} to {today - DAY}, compared with the same weekdays before" in text
    assert f"{today} is left out because it is not over everywhere" in text
    assert "Calls 25 no change from 25" in text
    alone = plain(page(shop, f"?location={LOCATION}&from={today}"))
    assert "it is not compared with the days before" in alone
    assert f"Calls 1 {UNKNOWN} from {UNKNOWN} " in alone


def test_callers_languages_and_captured_data_stand_in_tables(shop: Installation) -> None:
    text = plain(page(shop, f"?location={LOCATION}"))
    week = today_of() - 2 * DAY
    monday = week - week.weekday() * DAY
    assert re.search(rf"From {monday}[^F]*? 25 25 25 0 ", text)
    assert "not said 23 23 92 % es 2 2 8 %" in text
    assert "reason 5 5 20 % of 25" in text
    assert "Caller turns a call 2.0 (of 25 calls) 2.0 (of 25 calls) " in text
    assert "Most calls at once 25" in text
    agent = plain(page(shop, f"?location={LOCATION}&agent=agent-days"))
    assert "Callers of single agents are not told apart" in agent
    assert "es 2 2 8 %" in agent


def test_a_deleted_agent_keeps_its_name_and_is_marked_wherever_it_is_listed(
    shop: Installation,
) -> None:
    gone = "UPDATE voiceai_agents SET missing_since = now() WHERE agent_id = 'agent-days'"
    with shop.pipeline.engine.begin() as db:
        db.exec_driver_sql(gone)
    text = plain(page(shop, f"?location={LOCATION}"))
    assert text.count("Robin <b>& (deleted) LocHere Ltd") == 1
    assert "agent-days (deleted)" in text  # to choose
    # HighLevel never listed this one; only its calls tell of it.
    assert "agent agent-go (never listed)" in plain(page(shop, "?location=LocNew"))
