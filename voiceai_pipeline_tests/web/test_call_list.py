"""The list of calls: what the address shows, in which order, and to whom."""

import base64
import html
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from voiceai_pipeline.calls import call_search
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline_tests.support.call_desk import (
    HARBOR,
    MAPLE,
    MORNING,
    NEW_YORK,
    CallDesk,
    running_desk,
    user_of,
)


def position(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


DAY = "from=2026-11-18&to=2026-11-18"


@pytest.fixture(scope="module")
def running(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CallDesk]:
    with running_desk(postgres, template, tmp_path_factory.mktemp("list")) as desk:
        yield desk


@pytest.fixture
def desk(running: CallDesk) -> CallDesk:
    running.furnish()
    return running


def shown(desk: CallDesk, query: str, **role: bool) -> str:
    """The page's text and markup."""
    with desk.visitor(**role) as visitor:
        answer = visitor.get(f"/calls?{query}")
    assert answer.status_code == 200, answer.text
    return answer.text


def ids(page: str) -> list[str]:
    """The calls of a page, in order."""
    return re.findall(r'class="open" href="/calls/[^/]+/([^"?]+)', page)


def link(page: str, label: str) -> str:
    found = re.search(rf'href="/calls\?([^"]*)"[^>]*>{label}', page)
    assert found, f"no link {label}"
    return html.unescape(found[1])


def test_pages_follow_each_other_without_a_gap_or_a_repetition_in_every_order(
    desk: CallDesk,
) -> None:
    """Calls that share a time, a duration and a first sight have an order too."""
    stored = {
        desk.call(
            (HARBOR, MAPLE)[n % 2],
            MORNING + timedelta(minutes=n // 10),
            duration_seconds=(None, 30.0, 60.0)[n % 3],
            first_seen_at=MORNING + timedelta(hours=3 + n // 40),
        )
        for n in range(120)
    }
    for order in ("", "&sort=duration", "&sort=seen", "&order=asc", "&sort=duration&order=asc"):
        there, query = [], DAY + order
        for size in (50, 50, 20):
            page = shown(desk, query)
            assert len(ids(page)) == size
            there += ids(page)
            last = query
            query = link(page, "Next") if size == 50 else ""
        assert len(there) == 120
        assert set(there) == stored
        assert ids(shown(desk, link(shown(desk, last), "Previous"))) == there[50:100]


def test_a_call_that_is_stored_meanwhile_moves_nothing_to_another_page(desk: CallDesk) -> None:
    for n in range(60):
        desk.call(at=MORNING - timedelta(minutes=n))
    first = shown(desk, DAY)
    desk.call(at=MORNING + timedelta(minutes=1))
    second = ids(shown(desk, link(first, "Next")))
    assert len(second) == 10
    assert not set(second) & set(ids(first))


def test_a_day_is_the_day_of_each_location(desk: CallDesk) -> None:
    """The 18th in New York begins at 05:00 UTC, in Berlin at 23:00 UTC of the 17th."""
    late = datetime.fromisoformat("2026-11-19T04:30:00Z")
    here, there = desk.call(HARBOR, late), desk.call(MAPLE, late)
    assert ids(shown(desk, DAY)) == [here]
    assert ids(shown(desk, "from=2026-11-19&to=2026-11-19")) == [there]


def test_times_are_shown_in_the_locations_zone_or_in_the_one_that_is_asked_for(
    desk: CallDesk,
) -> None:
    desk.call(HARBOR)
    assert "Wed 18 Nov 2026, 10:42 EST" in shown(desk, DAY)
    assert "Wed 18 Nov 2026, 15:42 UTC" in shown(desk, f"{DAY}&zone=UTC")
    assert "Wed 18 Nov 2026, 16:42 CET" in shown(desk, f"{DAY}&zone=Europe/Berlin")
    assert "“zone” was not understood" in shown(desk, f"{DAY}&zone=Moon/Base")


def test_each_filter_finds_exactly_its_calls(desk: CallDesk) -> None:
    booked = [{"actionType": "APPOINTMENT_BOOKING", "actionName": "Book"}]
    calls = {
        "plain": desk.call(),
        "other": desk.call(MAPLE, agent_id="agent-van"),
        "long": desk.call(duration_seconds=600.0),
        "booked": desk.call(executed_call_actions=booked),
        "trial": desk.call(is_trial=True),
        "gone": desk.call(missing_since=MORNING),
        "changed": desk.call(last_changed_at=MORNING + timedelta(days=2)),
        "lengthless": desk.call(duration_seconds=None),
    }
    live = set(calls) - {"trial", "gone"}
    names = {call_id: name for name, call_id in calls.items()}
    for query, expected in {
        "": live,
        "show=test": {"trial"},
        "show=gone": {"gone"},
        "show=all": set(calls),
        f"location={MAPLE}": {"other"},
        "location=maple": {"other"},
        f"location={MAPLE}&location={HARBOR}": live,
        f"user={user_of(MAPLE)}": {"other"},
        "agent=agent-van": {"other"},
        "agent=agent-van&agent=agent-front": live,
        "min=600": {"long"},
        "min=10:00": {"long"},
        "max=60": live - {"long", "lengthless"},
        "action=APPOINTMENT_BOOKING": {"booked"},
        "action=APPOINTMENT_BOOKING&action=SMS": {"booked"},
        "action=SMS": set(),
        "changed=2026-11-20": {"changed"},
        "location=nowhere": set(),
    }.items():
        found = {names[one] for one in ids(shown(desk, f"{DAY}&{query}"))}
        assert found == expected, query


def test_calls_are_found_by_their_outcome_and_those_without_one_are_not_final(
    desk: CallDesk,
) -> None:
    booked, answered, fresh = desk.call(), desk.call(), desk.call()
    desk.outcome(booked, "goal")
    desk.outcome(answered, "answered")
    for query, expected in {
        "outcome=goal": {booked},
        "outcome=goal&outcome=answered": {booked, answered},
        "outcome=not_final": {fresh},
        "outcome=not_final&outcome=goal": {booked, fresh},
        "outcome=transferred": set(),
    }.items():
        assert set(ids(shown(desk, f"{DAY}&{query}"))) == expected, query
    page = re.sub(r"<[^>]+>", " ", shown(desk, DAY))
    for name in ("Booked", "Answered", "Not final yet"):
        assert name in page


def test_a_list_without_bounds_is_complete_whatever_it_begins_with(desk: CallDesk) -> None:
    """It looks at the last days first, and further back until its page is full."""
    found = []
    for ago in (0, 10, 100, 900):
        at = MORNING - timedelta(days=ago)
        found.append(desk.call(at=at))
        desk.outcome(found[-1], "goal", at)
    for query in ("outcome=goal", "has=engaged", "outcome=goal&order=asc"):
        expected = found[::-1] if "asc" in query else found
        page = shown(desk, f"days=all&{query}")
        assert ids(page) == expected, query
        assert re.search(r"Live <span>4</span>", page)


def test_actions_are_counted_only_of_so_many_calls(
    desk: CallDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        desk.call(executed_call_actions=[{"actionType": "SMS"}] if n % 2 else [])
    assert re.search(r"Live <span>2</span>", shown(desk, f"{DAY}&action=SMS"))
    monkeypatch.setattr(call_search, "LOOKED_AT", 3)
    page = shown(desk, f"{DAY}&action=SMS")
    assert re.search(r"All <span>more than [01]</span>", page)
    assert len(ids(page)) == 2


def test_the_insights_links_find_the_calls_behind_their_numbers(desk: CallDesk) -> None:
    """A weekday, an hour of local time, a span of whole seconds, what was derived."""
    early = desk.call(at=MORNING - timedelta(hours=2), duration_seconds=29.7)
    call = desk.call(duration_seconds=30.0)
    desk.outcome(call, "answered")
    days = "from=2026-11-16&to=2026-11-22"
    for query, expected in {
        "weekday=3": {early, call},
        "weekday=2": set(),
        "weekday=3&hour=10": {call},
        "hour=8": {early},
        "min=10&max=29": {early},
        "min=30&max=59": {call},
        "has=engaged": {call},
        "has=contained": {call},
        "has=transferred": set(),
        "q=10:42": {call},
        "q=10:43": set(),
        "days=all&q=8:42": {early},
    }.items():
        page = shown(desk, f"{days}&{query}")
        assert set(ids(page)) == expected, query
    assert "Only Wednesdays; 10:00 to 11:00, local time." in shown(
        desk, f"{days}&weekday=3&hour=10"
    )
    assert "Only calls logged at 10:42, local time." in shown(desk, f"{days}&q=10:42")


def test_a_minute_that_repeats_is_two_and_one_that_is_left_out_is_none(desk: CallDesk) -> None:
    """Clocks went back in New York on 1 November 2026 at 2:00, and forward on 8 March at 2:00."""
    twice = [desk.call(at=datetime(2026, 11, 1, hour, 30, tzinfo=UTC)) for hour in (5, 6)]
    desk.call(at=datetime(2026, 3, 8, 7, 30, tzinfo=UTC))
    assert set(ids(shown(desk, "from=2026-11-01&to=2026-11-01&q=1:30"))) == set(twice)
    assert ids(shown(desk, "from=2026-03-08&to=2026-03-08&q=2:30")) == []
    assert len(ids(shown(desk, "from=2026-03-08&to=2026-03-08&q=3:30"))) == 1


def test_each_kind_of_call_is_counted_whichever_is_shown(desk: CallDesk) -> None:
    for n in range(7):
        desk.call(is_trial=n in (1, 2), missing_since=MORNING if n == 3 else None)
    for kind in ("live", "test", "all"):
        page = re.sub(r"<[^>]+>", "", shown(desk, f"{DAY}&show={kind}"))
        assert re.search(r"Live 4\s+Test 2\s+No longer listed 1\s+All 7", page), kind


def test_deleted_agents_are_named_and_marked(desk: CallDesk) -> None:
    desk.agent(HARBOR, "agent-old", "Night desk", deleted=True)
    desk.call(agent_id="agent-old")
    desk.call(agent_id="0123456789abcdef", is_agent_deleted=True)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", shown(desk, DAY)))
    assert page.count("Night desk (deleted)") == 2  # one to choose
    assert "agent 01234567 (deleted)" in page


def test_no_calls_and_not_synced_yet_are_different_sentences(desk: CallDesk) -> None:
    day = date(2026, 11, 18)
    here = f"{DAY}&location={HARBOR}"
    assert "Not synced yet" in shown(desk, here)
    desk.read(HARBOR, day, day + timedelta(days=1), state="failed")
    page = shown(desk, here)
    assert "Not synced yet" in page
    assert "a sync of 2 failed" in page
    desk.clear()
    desk.location(HARBOR, "Harbor Dental", NEW_YORK)
    desk.read(HARBOR, day, day + timedelta(days=1))
    assert "<h2>No calls</h2>" in shown(desk, here)
    assert "<h2>No calls match</h2>" in shown(desk, f"{here}&min=5")


def test_words_numbers_contacts_and_ids_are_found_and_shown_in_their_sentence(
    desk: CallDesk,
) -> None:
    told = desk.call(
        summary="All is well. The caller wants a <b>refund</b> for O'Neil. Then goodbye.",
        from_number="+15550104477",
        contact_id="ContactOfTheRefund01",
    )
    said = desk.call(
        summary="", transcript="bot:Hello\nhuman:My grüne Tonne is full, please hurry!\nbot:Sure"
    )
    desk.index()
    for query, found in {
        "refund": [told],
        "REFUND caller": [told],
        '"caller wants"': [told],
        '"wants caller"': [],
        "tonne": [said],
        "grüne": [said],
        "tonne or refund": [said, told],
        "refund -caller": [],
        "4477": [told],
        "+1 (555) 010-4477": [told],
        "15550104": [told],
        "ContactOfTheRefund01": [told],
        told: [told],
        "!!!": [],
        "' OR 1=1 --": [],
        "a:* & b": [],
        "refund\x00": [told],
    }.items():
        page = shown(desk, f"{DAY}&order=asc&show=all&" + "q=" + _quoted(query))
        assert sorted(ids(page)) == sorted(found), query
    page = shown(desk, f"{DAY}&q=refund")
    assert "The caller wants a &lt;b&gt;<mark>refund</mark>&lt;/b&gt; for O&#39;Neil." in page
    assert "All is well" not in page
    page = shown(desk, f"{DAY}&q=tonne")
    assert "My grüne <mark>Tonne</mark> is full, please hurry!" in page


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def test_a_call_that_is_not_indexed_yet_is_found_by_its_id_and_the_page_says_so(
    desk: CallDesk,
) -> None:
    call = desk.call()
    assert ids(shown(desk, f"{DAY}&q={call}")) == [call]
    page = shown(desk, f"{DAY}&q=patient")
    assert ids(page) == []
    assert "Not every call can be found by its words yet" in page
    desk.index()
    page = shown(desk, f"{DAY}&q=patient")
    assert ids(page) == [call]
    assert "Not every call" not in page


class TestAnAnalyst:
    """Without a grant: sees which calls there were, and nothing of what callers said or are."""

    def test_sees_and_finds_no_content(self, desk: CallDesk) -> None:
        call = desk.call(
            from_number="+15550107777", contact_id="ContactSecret0001", summary="A secret matter",
            transcript="human:secret words", extracted_data={"name": "Secret Pat"},
            executed_call_actions=[{"actionType": "SMS", "actionName": "Secret action"}],
        )  # fmt: skip
        desk.index()
        page = shown(desk, DAY, analyst=True)
        assert ids(page) == [call]
        assert "text message" in page
        for query in ("secret", "7777", "ContactSecret0001"):
            assert ids(shown(desk, f"{DAY}&q={query}", analyst=True)) == []
        assert ids(shown(desk, f"{DAY}&q={call}", analyst=True)) == [call]
        with desk.visitor(analyst=True) as visitor:
            page += visitor.get(f"/calls/{HARBOR}/{call}").text
        assert not re.search("secret", page, re.IGNORECASE)
        assert "7777" not in page
        assert "What was said is not shown" in page
        assert desk.openings() == []

    def test_sees_content_when_granted_and_each_opening_is_recorded(self, desk: CallDesk) -> None:
        call = desk.call(summary="A secret matter")
        with desk.visitor(analyst=True, granted=True) as visitor:
            assert "A secret matter" in visitor.get(f"/calls?{DAY}").text
            assert "A secret matter" in visitor.get(f"/calls/{HARBOR}/{call}").text
            refused = visitor.get("/calls/openings")
        assert refused.status_code == 403
        assert desk.openings() == [("analyst", "list", 1, None), ("analyst", "call", 1, call)]
        with desk.visitor() as visitor:
            page = visitor.get("/calls/openings").text
        assert f"Call {call}" in page
        assert "List of 1 call" in page


def test_a_stranger_is_sent_to_the_login_and_then_back(desk: CallDesk) -> None:
    with desk.visitor() as visitor:
        visitor.session.cookies.clear()
        answer = visitor.get(f"/calls?{DAY}&q=a", follow=False)
        assert answer.status_code == 303
        back = "/calls?from=2026-11-18&to=2026-11-18&q=a"
        assert visitor.log_in(next=back).headers["Location"] == back


@pytest.mark.parametrize(
    "query",
    ["after=nonsense", "after=W10", "days=never", "min=long", "from=x", "sort=up", "show=x",
     "from=2026-11-20&to=2026-11-18", "from=0001-01-01", "after=" + "W" * 9000,
     "sort=duration&after=" + position(f'[1{"0" * 400},"a","b"]'),
     "after=" + position('["2026-11-18T00:00:00+00:00","a","\\ud800"]')],
)  # fmt: skip
def test_what_is_not_understood_is_named_and_left_out(desk: CallDesk, query: str) -> None:
    desk.call()
    page = shown(desk, query)
    assert "not understood" in page or "swapped" in page
