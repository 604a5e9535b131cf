"""From items to calls, and a window that is read completely or not at all: whatever order, paging,
total or change during the read the list comes up with.
"""

import datetime as dt
import hashlib
import json
import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.core.call import CallLog, ListedCall, SetAsideCall
from voiceai_pipeline.core.connection import REQUESTED_SCOPES
from voiceai_pipeline.core.days import Window
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.calls import (
    PAGE_SIZE,
    Page,
    as_sent,
    call_of,
    call_or_set_aside,
    head_of,
    parse_instant,
)
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.highlevel.redaction import redact
from voiceai_pipeline.highlevel.window import READS, SET_ASIDE_AT_MOST, FetchPage, Take, read_window
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.conftest import DEMO, NOON, REDIRECT_URI
from voiceai_pipeline_tests.highlevel.test_errors import CONTRACT, needs_contract

DAY = Window(
    dt.datetime(2026, 11, 19, tzinfo=dt.UTC),
    dt.datetime(2026, 11, 20, tzinfo=dt.UTC),
)
MS = dt.timedelta(milliseconds=1)


def iso(instant: dt.datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def item(call_id: str = "call", at: dt.datetime = DAY.start, **fields: Any) -> dict[str, Any]:
    return {"id": call_id, "createdAt": iso(at)} | fields


def parse_call(raw: Any) -> CallLog | SetAsideCall:
    """An item as a call with its columns, or why it is none."""
    read = call_or_set_aside(head_of(as_sent(raw)))
    return call_of(read) if isinstance(read, ListedCall) else read


def content_of(call: CallLog) -> Any:
    return json.loads(call.content)


@dataclass(frozen=True)
class WholeRead:
    """A read with the calls it passed on."""

    listed: list[ListedCall]
    set_aside: list[SetAsideCall]
    pages: int

    @property
    def calls(self) -> list[CallLog]:
        return [call_of(listed) for listed in self.listed]


def read_whole(fetch: FetchPage, window: Window) -> WholeRead:
    taken: list[ListedCall] = []

    def begin() -> Take:
        taken.clear()
        return taken.extend

    read = read_window(fetch, window, begin)
    return WholeRead(taken, read.set_aside, read.pages)


def parsed(raw: Any) -> CallLog:
    call = parse_call(raw)
    assert isinstance(call, CallLog)
    return call


def set_aside(raw: Any) -> SetAsideCall:
    call = parse_call(raw)
    assert isinstance(call, SetAsideCall)
    return call


# One item -----------------------------------------------------------------------------------------


@needs_contract
@pytest.mark.parametrize(
    "name",
    [
        "call_logs_page.json",
        "call_logs_page.wild_variant.json",
        "call_log_single.json",
        "webhook_VoiceAiCallEnd.json",
    ],
)
def test_every_example_of_the_contract_is_a_call(name: str) -> None:
    body = json.loads((CONTRACT / "examples" / name).read_text())
    for raw in body.get("callLogs", [body]):
        call = parsed(raw)
        assert call.call_id == raw["id"]
        assert iso(call.started_at) == raw["createdAt"]
        assert call.agent_id == raw["agentId"]
        assert call.contact_id == raw.get("contactId")
        assert call.from_number == raw.get("fromNumber")
        assert call.duration_seconds == raw["duration"]
        assert call.is_trial == raw["trialCall"]
        assert call.is_agent_deleted == raw.get("isAgentDeleted")
        assert call.summary == (raw["summary"] or None)
        assert call.transcript == (raw["transcript"] or None)
        assert call.extracted_data == raw.get("extractedData")
        assert call.translation == raw.get("translation")
        assert call.message_id == raw.get("messageId")
        assert len(call.executed_call_actions) == len(raw["executedCallActions"])
        assert set(content_of(call)) == set(raw)


def test_an_unknown_field_or_action_is_kept() -> None:
    actions = [{"_id": "c1", "actionType": "TELEPATHY", "actionName": "Guess"}, "odd", None]
    call = parsed(item(brandNew={"deep": [1]}, executedCallActions=actions))
    assert content_of(call)["brandNew"] == {"deep": [1]}
    assert call.executed_call_actions == actions
    assert head_of(as_sent(item(executedCallActions=actions))).unknown_actions == 1
    odd = [{"actionType": kind} for kind in (["SMS"], {"a": 1}, 7, None, "", "SMS", "WAVE")]
    assert head_of(as_sent(item(executedCallActions=odd))).unknown_actions == 2


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"createdAt": iso(DAY.start)}, "the call has no id"),
        (item() | {"id": ""}, "the call has no id"),
        (item() | {"id": None}, "the call has no id"),
        (item() | {"id": 7}, "the call has no id"),
        ({"id": "x"}, "the call has no readable createdAt"),
        (item() | {"createdAt": None}, "the call has no readable createdAt"),
        (item() | {"createdAt": "yesterday"}, "the call has no readable createdAt"),
        (item() | {"createdAt": True}, "the call has no readable createdAt"),
        (item() | {"createdAt": {}}, "the call has no readable createdAt"),
        (item() | {"createdAt": math.inf}, "the call has no readable createdAt"),
        (item() | {"createdAt": 10**400}, "the call has no readable createdAt"),
        (item() | {"createdAt": "0001-01-01T00:00:00+23:59"}, "the call has no readable createdAt"),
        ("text", "the item is not a JSON object"),
        (None, "the item is not a JSON object"),
        ([], "the item is not a JSON object"),
    ],
)
def test_an_item_without_id_or_time_is_set_aside_with_the_reason(raw: Any, reason: str) -> None:
    call = set_aside(raw)
    assert call.reason == reason
    assert len(call.content_hash) == 32


def test_what_is_set_aside_keeps_what_it_says() -> None:
    assert set_aside({"createdAt": iso(DAY.start), "x": 1}).started_at == DAY.start
    assert set_aside({"id": "known", "createdAt": "?"}).call_id == "known"


def test_what_is_nested_too_deeply_is_left_out_and_the_call_kept() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    call = parsed(item(extractedData=deep, summary="See https://a:b@example.test"))
    assert call.extracted_data == "nested too deeply"
    assert content_of(call)["summary"] == "See https://example.test"
    secret: Any = {"token": "x"}
    for _ in range(900):
        secret = [secret]
    assert set_aside(secret).raw == "nested too deeply"


@pytest.mark.parametrize(
    "created_at",
    [
        "2026-11-19T12:30:00.250Z",
        "2026-11-19T12:30:00.250+00:00",
        "2026-11-19T07:30:00.250-05:00",
        "2026-11-19T12:30:00.250",
        1795091400250,
        1795091400.25,
        1795091400250.0,
        "1795091400250",
    ],
)
def test_a_time_is_read_from_iso_and_from_seconds_or_milliseconds(created_at: Any) -> None:
    expected = dt.datetime(2026, 11, 19, 12, 30, 0, 250_000, dt.UTC)
    assert parsed(item() | {"createdAt": created_at}).started_at == expected


@given(st.integers(10**11, 7 * 10**12))
def test_every_spelling_of_a_time_is_the_same_time(ms: int) -> None:
    instant = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + ms * MS
    whole = instant.replace(microsecond=0)
    assert parse_instant(iso(instant)) == parse_instant(ms) == parse_instant(str(ms)) == instant
    assert parse_instant(ms // 1000) == parse_instant(str(ms // 1000)) == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = (
    "agentId", "contactId", "fromNumber", "duration", "trialCall", "isAgentDeleted", "summary",
    "transcript", "executedCallActions", "extractedData", "translation", "messageId",
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON))
def test_nothing_in_any_other_field_can_fail_a_call(fields: dict[str, Any]) -> None:
    call = parsed(fields | item())
    # PostgreSQL takes this: no NaN, no NUL, no half surrogate.
    text = json.dumps(content_of(call), ensure_ascii=False, allow_nan=False)
    text.encode()
    assert "\x00" not in text
    assert "\\u0000" not in text
    duration = call.duration_seconds
    assert duration is None or math.isfinite(duration)


@pytest.mark.parametrize("duration", [10**400, -(10**400), math.nan, math.inf, "184", True, None])
def test_a_duration_that_is_no_number_is_left_empty(duration: Any) -> None:
    assert parsed(item(duration=duration)).duration_seconds is None


def test_a_nul_and_half_a_surrogate_do_not_cost_the_call() -> None:
    call = parsed(json.loads(json.dumps(item("a\x00b", transcript="bot:\x00 \ud83d human:😀"))))
    assert call.call_id == "a\ufffdb"
    assert call.transcript == "bot:\ufffd ? human:😀"


def test_the_hash_tells_whether_a_call_changed_and_not_how_it_was_spelled() -> None:
    one = parsed({"id": "x", "createdAt": iso(DAY.start), "summary": "a"})
    same = parsed({"summary": "a", "createdAt": iso(DAY.start), "id": "x"})
    other = parsed({"id": "x", "createdAt": iso(DAY.start), "summary": "b"})
    assert one.content_hash == same.content_hash != other.content_hash


NUMBERS = (
    st.integers(-(2**70), 2**70) | st.floats() | st.floats(-1e-3, 1e-3) | st.floats(1e15, 1e17)
)
NAMES = st.sampled_from(
    [
        "name",
        "key",
        "value",
        "Default",
        "url",
        "uri\n",
        "headers",
        "token",
        "passw",
        "x",
        "\u017fecret",
    ]
)
WORDS = st.sampled_from(["api_key", "https://a.test/?k=v", "://", "\x00", "\ud800", "ünïcode 🎈"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(NAMES | WORDS | st.text(max_size=5), children, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS) | NAMES | WORDS | st.text(), ANYTHING))
@example({"duration": 1e-05})
@example({"duration": 1e16, "summary": "é"})
@example({"extractedData": {"a": [[-1.5e300]]}})
@example({"extractedData": [math.nan, {"b": math.inf}]})
@example({"extractedData": {"n": 2**70}})
@example({"summary": "See ftp://a:b@example.test"})
@example({"transcript": "bot:\x00"})
@example({"transcript": "bot:\\u0000"})
@example({"transcript": "\ud83d"})
@example({"extractedData": {"apiKey": "k"}})
@example({"extractedData": [{"Name": "api_key", "value": 7, "key": "x"}]})
@example({"extractedData": {"url": "example.test/?k=v", "headers": ["h"]}})
@example({"\u017fecret": "s", "a\x00": 1})
def test_the_short_way_to_a_calls_content_leads_to_the_same(fields: dict[str, Any]) -> None:
    raw = redact(fields | item())
    content = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    call = parsed(fields | item())
    assert call.content == content
    assert call.content_hash == hashlib.sha256(content).digest()


def test_the_content_of_an_ordinary_call_is_what_it_always_was() -> None:
    """Tables hold these hashes: another spelling would write every call once more."""
    raw = item(
        "a", duration=12.5, trialCall=False, summary='é "x"\n', extractedData={"b": 0, "a": {}}
    )
    assert parsed(raw).content.decode() == (
        '{"createdAt":"2026-11-19T00:00:00.000Z","duration":12.5,"extractedData":{"a":{},"b":0},'
        '"id":"a","summary":"é \\"x\\"\\n","trialCall":false}'
    )


# A whole window, over a list that keeps its promises --------------------------------------------


@dataclass
class CallList:
    """HighLevel's list in memory: ascending, in pages of 50, while calls come and go.

    Attributes:
        calls: id to createdAt.
        churn: what happens before each request: how many calls vanish, how many arrive.
        existed: the calls that were there during the whole of the walk under way.
    """

    calls: dict[str, dt.datetime]
    inclusive: bool = True
    tells_total: bool = True
    churn: list[tuple[int, int]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311
    window: Window = DAY
    requests: int = 0
    existed: set[str] = field(default_factory=set)
    ever: dict[str, dt.datetime] = field(default_factory=dict)

    def __call__(self, start: dt.datetime, end: dt.datetime, page: int) -> Page:
        if self.requests < len(self.churn):
            self.come_and_go(*self.churn[self.requests])
        self.requests += 1
        self.ever |= self.calls
        if start == self.window.start - dt.timedelta(seconds=1) and page == 1:
            self.existed = set(self.calls)
        self.existed &= set(self.calls)
        listed = self.order(
            [
                (at, call_id)
                for call_id, at in self.calls.items()
                if (start <= at <= end if self.inclusive else start < at < end)
            ]
        )
        part = listed[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        items = [as_sent(self.item(call_id, at)) for at, call_id in part]
        return Page(items, len(listed) if self.tells_total else None)

    def item(self, call_id: str, at: dt.datetime) -> dict[str, Any]:
        return item(call_id, at)

    def order(self, listed: list[tuple[dt.datetime, str]]) -> list[tuple[dt.datetime, str]]:
        return sorted(listed)

    def come_and_go(self, vanish: int, arrive: int) -> None:
        for call_id in self.chance.sample(sorted(self.calls), min(vanish, len(self.calls))):
            del self.calls[call_id]
        span = (self.window.end - self.window.start) // MS
        for _ in range(arrive):
            at = self.window.start + self.chance.randrange(span) * MS
            self.calls[f"new{len(self.ever)}-{self.chance.random()}"] = at


def spread(count: int, chance: random.Random, *, within: int, step: int = 1) -> dict[str, Any]:
    """``count`` calls at multiples of ``step`` ms in the first ``within`` ms around the start."""
    start = DAY.start - dt.timedelta(seconds=3)
    return {
        f"call{n}": start + chance.randrange(0, max(within, 1), step) * MS for n in range(count)
    }


def check(calls: CallList, read: WholeRead) -> None:
    found = [call.call_id for call in read.calls]
    assert len(found) == len(set(found)), "a call twice"
    assert all(call.started_at in DAY for call in read.calls), "a call outside the window"
    assert set(found) <= set(calls.ever)
    inside = {call_id for call_id in calls.existed if calls.ever[call_id] in DAY}
    assert inside <= set(found), "a call is missing that was there all the time"
    assert read.pages == calls.requests
    order = [(call.started_at, call.call_id) for call in read.calls]
    assert order == sorted(order)


def complete_or_nothing(calls: CallList) -> WholeRead | None:
    """A read that has been checked; None if it was refused as incomplete."""
    try:
        read = read_whole(calls, DAY)
    except PipelineError as error:
        if error.failure is not FailureClass.INCOMPLETE:
            raise
        return None
    check(calls, read)
    return read


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    count=st.integers(0, 260),
    within=st.sampled_from([200, 5_000, 86_406_000]),
    seed=st.integers(0, 2**32),
    churn=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12),
    inclusive=st.booleans(),
    tells_total=st.booleans(),
)
def test_calls_that_come_and_go_between_pages_cost_no_other_call(
    count: int,
    within: int,
    seed: int,
    churn: list[tuple[int, int]],
    inclusive: bool,
    tells_total: bool,
) -> None:
    chance = random.Random(seed)  # noqa: S311
    there = spread(count, chance, within=within)
    calls = CallList(there, inclusive, tells_total, churn, chance)
    read = complete_or_nothing(calls)
    if read is None:
        assert tells_total
        assert any(vanish or arrive for vanish, arrive in churn)


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(0, 400),
    step=st.sampled_from([2, 7, 1000]),
    seed=st.integers(0, 2**32),
    inclusive=st.booleans(),
    tells_total=st.booleans(),
)
def test_a_list_that_stands_still_is_read_at_once(
    count: int, step: int, seed: int, inclusive: bool, tells_total: bool
) -> None:
    chance = random.Random(seed)  # noqa: S311
    places = chance.sample(range(86_400_000 // step), count)
    there = {f"call{n}": DAY.start + place * step * MS for n, place in enumerate(places)}
    calls = CallList(there, inclusive, tells_total)
    read = read_whole(calls, DAY)
    check(calls, read)
    assert len(read.calls) == count
    assert read.pages <= math.ceil(count / 49) + 1


@pytest.mark.parametrize("inclusive", [True, False])
def test_a_call_at_midnight_belongs_to_the_day_that_begins(inclusive: bool) -> None:
    there = {
        "before": DAY.start - MS,
        "first": DAY.start,
        "last": DAY.end - MS,
        "after": DAY.end,
    }
    read = read_whole(CallList(there, inclusive), DAY)
    assert [call.call_id for call in read.calls] == ["first", "last"]


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("tells_total", [True, False])
@pytest.mark.parametrize(("before", "tied"), [(0, 50), (0, 51), (30, 40), (10, 230), (49, 150)])
def test_more_than_a_page_of_calls_in_one_millisecond_are_all_read(
    inclusive: bool, tells_total: bool, before: int, tied: int
) -> None:
    noon = DAY.start + dt.timedelta(hours=12)
    there = {f"before{n}": noon - MS for n in range(before)}
    there |= {f"tied{n}": noon for n in range(tied)}
    there |= {f"after{n}": noon + (n + 1) * MS for n in range(60)}
    calls = CallList(there, inclusive, tells_total)
    read = read_whole(calls, DAY)
    check(calls, read)
    assert len(read.calls) == before + tied + 60


@settings(max_examples=200, deadline=None)
@given(st.integers(51, 200), st.lists(st.integers(0, 2), max_size=8), st.integers(0, 2**32))
def test_ties_that_vanish_between_page_numbers_are_noticed(
    tied: int, vanishing: list[int], seed: int
) -> None:
    noon = DAY.start + dt.timedelta(hours=12)
    calls = CallList(
        {f"tied{n}": noon for n in range(tied)},
        churn=[(0, 0)] + [(count, 0) for count in vanishing],
        chance=random.Random(seed),  # noqa: S311
    )
    complete_or_nothing(calls)


# A list that breaks its promises ------------------------------------------------------------------


class NewestFirst(CallList):
    def order(self, listed: list[tuple[dt.datetime, str]]) -> list[tuple[dt.datetime, str]]:
        return sorted(listed, reverse=True)


@pytest.mark.parametrize("tells_total", [True, False])
@pytest.mark.parametrize("within", [2, 86_400_000])
def test_a_list_that_ignores_the_sort_order_is_read_all_the_same(
    tells_total: bool, within: int
) -> None:
    chance = random.Random(3)  # noqa: S311
    there = {f"call{n}": DAY.start + chance.randrange(within) * MS for n in range(230)}
    calls = NewestFirst(there, tells_total=tells_total)
    read = read_whole(calls, DAY)
    check(calls, read)
    assert len(read.calls) == 230


def ignoring(calls: CallList, *, page: bool = False, dates: bool = False) -> FetchPage:
    wide = Window(DAY.start - dt.timedelta(days=400), DAY.end + dt.timedelta(days=400))

    def fetch(start: dt.datetime, end: dt.datetime, number: int) -> Page:
        if dates:
            start, end = wide.start, wide.end
        return calls(start, end, 1 if page else number)

    return fetch


def test_a_list_that_ignores_page_numbers_is_read_by_its_dates() -> None:
    calls = CallList(spread(200, random.Random(4), within=86_400_000))  # noqa: S311
    read = read_whole(ignoring(calls, page=True), DAY)
    assert len(read.calls) == sum(at in DAY for at in calls.calls.values())


@pytest.mark.parametrize("tells_total", [True, False])
def test_ties_behind_ignored_page_numbers_end_as_incomplete(tells_total: bool) -> None:
    there = {f"tied{n}": DAY.start for n in range(60)}
    calls = CallList(there, tells_total=tells_total)
    with pytest.raises(PipelineError) as caught:
        read_whole(ignoring(calls, page=True), DAY)
    assert caught.value.failure is FailureClass.INCOMPLETE
    assert calls.requests < 30


def test_a_list_that_ignores_dates_gives_only_the_windows_calls() -> None:
    there = {f"call{n}": DAY.start + (n - 20) * dt.timedelta(hours=1) for n in range(45)}
    read = read_whole(ignoring(CallList(there), dates=True), DAY)
    assert len(read.calls) == 24


@pytest.mark.parametrize("tells_total", [True, False])
def test_a_long_list_that_ignores_dates_is_never_taken_for_complete(tells_total: bool) -> None:
    there = {f"call{n}": DAY.start + n * dt.timedelta(minutes=1) for n in range(400)}
    calls = CallList(there, tells_total=tells_total)
    with pytest.raises(PipelineError) as caught:
        read_whole(ignoring(calls, dates=True), DAY)
    assert caught.value.failure is FailureClass.INCOMPLETE


@pytest.mark.parametrize("tells_total", [True, False])
def test_times_finer_than_highlevels_dates_cost_no_call_and_no_second_read(
    tells_total: bool,
) -> None:
    """A date in a request is cut to milliseconds, and then shows calls before it once more."""
    us = dt.timedelta(microseconds=1)
    there = {f"call{n}": DAY.start + n * 357 * us for n in range(300)}

    class Finer(CallList):
        def item(self, call_id: str, at: dt.datetime) -> dict[str, Any]:
            return item(call_id) | {"createdAt": at.isoformat(timespec="microseconds")}

    calls = Finer(there, tells_total=tells_total)

    def fetch(start: dt.datetime, end: dt.datetime, number: int) -> Page:
        return calls(start.replace(microsecond=start.microsecond // 1000 * 1000), end, number)

    read = read_whole(fetch, DAY)
    assert len(read.calls) == len({call.call_id for call in read.calls}) == 300
    assert read.pages == calls.requests <= 7


def test_memory_stays_flat_while_a_long_list_is_in_order() -> None:
    """What was passed on is not kept: at most two pages of calls are waiting at any time."""
    there = {f"call{n}": DAY.start + n * MS * 10 for n in range(1_000)}
    calls = CallList(there)
    passed = 0
    most = 0

    def take(listed: list[ListedCall]) -> None:
        nonlocal passed, most
        most = max(most, min(calls.requests * PAGE_SIZE, 1_000) - passed)
        passed += len(listed)

    read_window(calls, DAY, lambda: take)
    assert passed == 1_000
    assert most <= 2 * PAGE_SIZE


def test_a_list_that_turns_out_not_to_be_in_order_is_read_again_and_passed_on_anew() -> None:
    """Some of it has been passed on when it shows, and that may be listed again."""
    there = {f"call{n:03}": DAY.start + n * dt.timedelta(minutes=5) for n in range(130)}
    calls = CallList(there)

    def fetch(start: dt.datetime, end: dt.datetime, number: int) -> Page:
        return calls(DAY.start, DAY.end, number)  # the dates are ignored, page numbers are not

    began: list[list[ListedCall]] = []

    def begin() -> Take:
        began.append([])
        return began[-1].extend

    read_window(fetch, DAY, begin)
    assert [bool(taken) for taken in began] == [True, True]
    assert [call.call_id for call in began[-1]] == sorted(there)


@pytest.mark.parametrize("lie", [-1, 1, 1000])
def test_a_total_that_never_fits_ends_as_incomplete(lie: int) -> None:
    calls = CallList({f"call{n}": DAY.start + n * MS * 10 for n in range(20)})

    def fetch(start: dt.datetime, end: dt.datetime, number: int) -> Page:
        page = calls(start, end, number)
        assert page.total is not None
        return Page(page.items, page.total + lie)

    with pytest.raises(PipelineError) as caught:
        read_whole(fetch, DAY)
    assert caught.value.failure is FailureClass.INCOMPLETE
    assert calls.requests == READS


def test_a_total_that_comes_right_is_read_again() -> None:
    there = {f"call{n}": DAY.start + n * dt.timedelta(minutes=1) for n in range(120)}
    calls = CallList(there, churn=[(0, 0), (0, 1)])
    read = read_whole(calls, DAY)
    check(calls, read)
    assert len(read.calls) == 121
    assert read.pages == 6


def test_what_the_fetch_raises_comes_through() -> None:
    def fetch(*_asked: object) -> Page:
        raise PipelineError(FailureClass.RATE_LIMITED)

    with pytest.raises(PipelineError) as caught:
        read_whole(fetch, DAY)
    assert caught.value.failure is FailureClass.RATE_LIMITED


# Items that cannot be stored ----------------------------------------------------------------------


def once(items: list[Any]) -> FetchPage:
    """A list that stands still: what has a time comes in its order, after what has none."""

    def fetch(start: dt.datetime, end: dt.datetime, page: int) -> Page:
        times = [one.get("createdAt", "") if isinstance(one, dict) else "" for one in items]
        order = sorted(range(len(items)), key=lambda n: times[n])
        listed = [items[n] for n in order if not times[n] or iso(start) <= times[n] <= iso(end)]
        part = listed[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        return Page([as_sent(one) for one in part], len(listed))

    return fetch


def test_a_few_unreadable_items_are_set_aside_and_the_others_stored() -> None:
    items: list[Any] = [item(f"call{n}") for n in range(10)]
    items += [{"createdAt": iso(DAY.start)}, {"id": "x"}, "odd", None]
    read = read_whole(once(items), DAY)
    assert len(read.calls) == 10
    assert len(read.set_aside) == 4


def test_equal_items_without_id_are_counted_one_by_one() -> None:
    read = read_whole(once([None, None, {}, {}, item()]), DAY)
    assert (len(read.calls), len(read.set_aside)) == (1, 4)


def test_an_unreadable_item_outside_the_window_is_left_to_its_own_day() -> None:
    read = read_whole(once([{"createdAt": iso(DAY.end)}, item()]), DAY)
    assert (len(read.calls), len(read.set_aside)) == (1, 0)


def test_unreadable_times_do_not_stop_the_way_through_the_list() -> None:
    class Unclear(CallList):
        def item(self, call_id: str, at: dt.datetime) -> dict[str, Any]:
            unclear = call_id in ("call30", "call49", "call120")
            return item(call_id, at) | ({"createdAt": "soon"} if unclear else {})

    calls = Unclear({f"call{n}": DAY.start + n * dt.timedelta(minutes=5) for n in range(180)})
    read = read_whole(calls, DAY)
    assert len(read.calls) == 177
    assert len(read.set_aside) == 3


@pytest.mark.parametrize(
    ("readable", "unreadable", "refused"),
    [
        (0, SET_ASIDE_AT_MOST, False),
        (0, SET_ASIDE_AT_MOST + 1, True),
        (10, SET_ASIDE_AT_MOST + 1, True),
        (190, 10, False),
        (189, 11, True),
    ],
)
def test_a_window_of_too_many_unreadable_items_is_refused(
    readable: int, unreadable: int, refused: bool
) -> None:
    items: list[Any] = [{"odd": n, "createdAt": iso(DAY.start)} for n in range(unreadable)]
    items += [item(f"call{n}", DAY.start + n * MS) for n in range(readable)]
    fetch = once(items)
    if not refused:
        assert len(read_whole(fetch, DAY).set_aside) == unreadable
        return
    with pytest.raises(PipelineError) as caught:
        read_whole(fetch, DAY)
    assert caught.value.failure is FailureClass.MALFORMED


# Over real HTTP -----------------------------------------------------------------------------------

HARBOR = DEMO["Harbor Dental"].installs_on
WEEK = Window(NOON - dt.timedelta(days=7), NOON - dt.timedelta(days=1))


@pytest.fixture
def fetch(sandbox: RunningSandbox, client: HighLevelClient) -> FetchPage:
    code = sandbox.world.authorize(HARBOR, None, list(REQUESTED_SCOPES), REDIRECT_URI)
    token = client.exchange_code(Secret(code)).access_token
    sandbox.world.clear_requests()
    return lambda start, end, page: client.call_logs_page(token, HARBOR, start, end, page)


def ids_there(sandbox: RunningSandbox) -> set[str]:
    return {str(c["id"]) for c in sandbox.world.calls.between(HARBOR, WEEK.start, WEEK.end)}


@pytest.mark.parametrize("ends", ["inclusive", "exclusive"])
@pytest.mark.parametrize("envelope", ["spec", "wild"])
def test_the_sandboxs_week_is_read_whole(
    sandbox: RunningSandbox, fetch: FetchPage, ends: Any, envelope: Any
) -> None:
    sandbox.world.date_ends = ends
    sandbox.world.set_envelope(HARBOR, envelope)
    read = read_whole(fetch, WEEK)
    assert {call.call_id for call in read.calls} == ids_there(sandbox)
    assert len(read.calls) > 200
    assert read.pages == len(sandbox.requests) <= math.ceil(len(read.calls) / 49) + 1


@pytest.mark.parametrize(
    "churn",
    [
        Fault("churn", HARBOR, after=1, remove=3),
        Fault("churn", HARBOR, after=2, remove=1, add=1, add_at=WEEK.start + MS),
        Fault("churn", HARBOR, after=1, add=4, add_at=WEEK.end - MS),
        Fault("churn", HARBOR, times=4, remove=1, add=1, add_at=WEEK.end - MS),
        Fault("churn", HARBOR, after=1, times=2, remove=2, add=60, add_at=WEEK.end - MS),
    ],
    ids=["vanish", "vanish and arrive behind", "arrive ahead", "both, four times", "sixty at once"],
)
def test_the_sandboxs_churn_costs_no_call(
    sandbox: RunningSandbox, fetch: FetchPage, churn: Fault
) -> None:
    before = ids_there(sandbox)
    sandbox.world.add_fault(churn)
    read = read_whole(fetch, WEEK)
    found = [call.call_id for call in read.calls]
    assert len(found) == len(set(found))
    assert before & ids_there(sandbox) <= set(found) <= before | ids_there(sandbox)
    assert ids_there(sandbox) != before


def test_churn_that_never_ends_is_never_stored_as_complete(
    sandbox: RunningSandbox, fetch: FetchPage
) -> None:
    sandbox.world.add_fault(Fault("churn", HARBOR, times=1000, add=1, add_at=WEEK.end - MS))
    with pytest.raises(PipelineError) as caught:
        read_whole(fetch, WEEK)
    assert caught.value.failure is FailureClass.INCOMPLETE


@pytest.mark.parametrize("kind", ["reset", "truncated_json", "html_502", "gateway_timeout_401"])
def test_a_fault_between_two_pages_costs_no_call(
    sandbox: RunningSandbox, fetch: FetchPage, kind: Any
) -> None:
    sandbox.world.add_fault(Fault(kind, HARBOR, after=1, times=2))
    read = read_whole(fetch, WEEK)
    assert {call.call_id for call in read.calls} == ids_there(sandbox)
