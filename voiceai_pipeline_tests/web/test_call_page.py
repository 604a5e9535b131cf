"""One call on its page: all that is known of it, its neighbours in the list, and who opened it."""

import html
import re
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import quote

import pytest

from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline_tests.support.call_desk import (
    HARBOR,
    MORNING,
    NEW_YORK,
    CallDesk,
    running_desk,
)

DAY = "from=2026-11-18&to=2026-11-18"
BOOKING = {
    "actionType": "APPOINTMENT_BOOKING",
    "actionName": "Book <i>visit</i>",
    "actionParameters": {"calendarId": "CalExample0000000001"},
    "executedAt": "2026-11-18T15:43:30.120Z",
}


@pytest.fixture(scope="module")
def running(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CallDesk]:
    with running_desk(postgres, template, tmp_path_factory.mktemp("page")) as desk:
        yield desk


@pytest.fixture
def desk(running: CallDesk) -> CallDesk:
    running.clear()
    running.location(HARBOR, "Harbor Dental", NEW_YORK)
    running.agent(HARBOR, "agent-front", "Front desk")
    return running


def opened(desk: CallDesk, path: str) -> str:
    with desk.visitor() as visitor:
        answer = visitor.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_everything_that_is_known_of_a_call_is_on_its_page(desk: CallDesk) -> None:
    call = desk.call(
        contact_id="ContactExample000001",
        from_number="+15550104477",
        summary="The caller <script>alert(1)</script> booked.",
        transcript="bot:Hello\nthere\nhuman:Book me, please",
        executed_call_actions=[BOOKING],
        extracted_data={"customerName": "Pat <b>Example</b>", "size": {"party": 4}},
        raw={"id": "x", "note": "raw <b>text</b>"},
        last_changed_at=MORNING + timedelta(hours=5),
    )
    page = opened(desk, f"/calls/{HARBOR}/{call}")
    text = words(page)
    for part in (
        "Call of Wed 18 Nov 2026 10:42 EST",
        "Front desk · Harbor Dental · 1:00",
        "The caller <script>alert(1)</script> booked.",
        "1 Agent Hello there",
        "2 Caller Book me, please",
        "booking “Book <i>visit</i>” 1:23 into the call (Wed 18 Nov 2026, 10:43:30 EST)",
        '"calendarId": "CalExample0000000001"',
        "customerName Pat <b>Example</b>",
        'size {"party": 4}',
        '"note": "raw <b>text</b>"',
        "First seen Wed 18 Nov 2026, 10:47:07 EST",
        "Last changed Wed 18 Nov 2026, 15:42:07 EST",
    ):
        assert part in text, part
    assert "<script>alert" not in page
    assert (
        f'href="https://app.example.test/v2/location/{HARBOR}/contacts/detail/ContactExample000001"'
        in page
    )


@pytest.mark.parametrize("contact", ["../../evil", "javascript:x", "a" * 99, "Contact 1", ""])
def test_no_link_is_built_from_an_id_that_is_not_highlevels(desk: CallDesk, contact: str) -> None:
    call = desk.call(contact_id=contact)
    assert "app.example.test" not in opened(desk, f"/calls/{HARBOR}/{call}")


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "soon"])
def test_an_action_whose_time_is_none_is_shown_with_what_was_sent(desk: CallDesk, at: str) -> None:
    call = desk.call(executed_call_actions=[BOOKING | {"executedAt": at}])
    assert f"“Book <i>visit</i>” {at}" in words(opened(desk, f"/calls/{HARBOR}/{call}"))


def test_tools_stand_where_they_ran(desk: CallDesk) -> None:
    timed = [
        {"role": "agent", "content": "Hello", "startTime": 0.5},
        {"role": "action_executed", "toolName": "look_up", "startTime": 9},
        {"role": "user", "content": "Thanks", "startTime": 65},
    ]
    call = desk.call(raw={"id": "x", "transcriptWithToolCalls": timed})
    text = words(opened(desk, f"/calls/{HARBOR}/{call}"))
    assert "1 Agent 0:00 Hello tool look_up at 0:09 2 Caller 1:05 Thanks" in text


def test_previous_and_next_stay_in_the_filter_and_its_order(desk: CallDesk) -> None:
    calls = [
        desk.call(at=MORNING + timedelta(minutes=n), is_trial=n == 2, duration_seconds=10.0 * n)
        for n in range(5)
    ]
    for order, expected in (("", (3, 0)), ("&order=asc", (0, 3)), ("&sort=duration", (3, 0))):
        page = opened(desk, f"/calls/{HARBOR}/{calls[1]}?{DAY}{order}")
        found = re.findall(r'id="(?:previous|following)"[^>]*href="([^"]+)"', page)
        paths = [html.unescape(one) for one in found]
        assert paths == [f"/calls/{HARBOR}/{calls[n]}?{DAY}{order}" for n in expected], order
    last = opened(desk, f"/calls/{HARBOR}/{calls[4]}?{DAY}")
    assert 'id="previous"' not in last
    assert f'id="back" href="/calls?{DAY.replace("&", "&amp;")}"' in last


def test_every_opening_is_recorded_before_it_is_shown(desk: CallDesk) -> None:
    call = desk.call()
    assert "Opened by" in opened(desk, f"/calls/{HARBOR}/{call}")
    assert desk.openings() == [("operator", "call", 1, call)]


@pytest.mark.parametrize("call_id", ["unknown", "a/b", "%00", "..%2F..%2Fusers", "x" * 600])
def test_a_call_that_is_not_there_is_not_found(desk: CallDesk, call_id: str) -> None:
    with desk.visitor() as visitor:
        assert visitor.get(f"/calls/{HARBOR}/{call_id}").status_code == 404
    assert desk.openings() == []


def test_a_call_with_an_odd_id_has_a_page_too(desk: CallDesk) -> None:
    """Ids are foreign text."""
    for odd in ("a/b c", "ü?x=1&y#z", "a:b%41", "<b>"):
        call = desk.call(call_id=odd)
        page = opened(desk, f"/calls/{HARBOR}/{quote(call, safe='')}")
        assert f"Call ID {odd}" in words(page)
        listed = opened(desk, f"/calls?{DAY}")
        assert f'href="/calls/{HARBOR}/{quote(odd, safe="")}' in listed
