"""From an item to a call, or to the reason why it is none."""

import datetime as dt
import hashlib
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voiceai_pipeline.core.call import CallLog, ListedCall, SetAsideCall
from voiceai_pipeline.highlevel import deep_json
from voiceai_pipeline.highlevel.allow_list import redact_call
from voiceai_pipeline.highlevel.calls import (
    as_sent,
    call_of,
    call_or_set_aside,
    head_of,
    parse_instant,
)
from voiceai_pipeline.highlevel.deep_json import DEEPEST
from voiceai_pipeline.highlevel.redaction import NUMBER, REDACTED
from voiceai_pipeline_tests.support.call_columns import values_of
from voiceai_pipeline_tests.support.call_lists import (
    DAY,
    MS,
    iso,
    item,
)
from voiceai_pipeline_tests.support.contract import example_body


def parse_call(raw: Any) -> CallLog | SetAsideCall:
    """An item as a call with its columns, or why it is none."""
    read = call_or_set_aside(head_of(as_sent(raw)))
    return values_of(call_of(read)) if isinstance(read, ListedCall) else read


def content_of(call: CallLog) -> Any:
    return json.loads(call.content)


def parsed(raw: Any) -> CallLog:
    call = parse_call(raw)
    assert isinstance(call, CallLog)
    return call


def set_aside(raw: Any) -> SetAsideCall:
    call = parse_call(raw)
    assert isinstance(call, SetAsideCall)
    return call


IMPLAUSIBLE = "the call's createdAt is not between 2015 and 2100"


# One item -----------------------------------------------------------------------------------------


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
    body = example_body(name)
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


def test_of_an_unknown_field_or_action_names_and_types_are_kept() -> None:
    actions = [{"_id": "c1", "actionType": "TELEPATHY", "actionName": "Guess"}, "odd", None]
    call = parsed(item(brandNew={"deep": [1], "is": True}, executedCallActions=actions))
    assert content_of(call)["brandNew"] == {"deep": [NUMBER], "is": True}
    unknown = {"_id": REDACTED, "actionType": "TELEPATHY", "actionName": REDACTED}
    assert call.executed_call_actions == [unknown, REDACTED, None]
    assert head_of(as_sent(item(executedCallActions=actions))).unknown_actions == 1
    odd = [{"actionType": kind} for kind in (["SMS"], {"a": 1}, 7, None, "", "SMS", "WAVE")]
    assert head_of(as_sent(item(executedCallActions=odd))).unknown_actions == 2


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"createdAt": iso(DAY.start)}, "the call has no id"),
        (item() | {"id": ""}, "the call has no id"),
        (item() | {"id": None}, "the call has no id"),
        (item() | {"id": " "}, "the call has no id"),
        (item() | {"id": True}, "the call has no id"),
        (item() | {"id": 1.5}, "the call has no id"),
        (item() | {"id": "x" * 9000}, "the call's id has 9000 characters"),
        ({"id": "x"}, "the call has no readable createdAt"),
        (item() | {"createdAt": None}, "the call has no readable createdAt"),
        (item() | {"createdAt": "yesterday"}, "the call has no readable createdAt"),
        (item() | {"createdAt": True}, "the call has no readable createdAt"),
        (item() | {"createdAt": {}}, "the call has no readable createdAt"),
        (item() | {"createdAt": math.inf}, "the call has no readable createdAt"),
        (item() | {"createdAt": 10**400}, "the call has no readable createdAt"),
        (item() | {"createdAt": "0001-01-01T00:00:00+23:59"}, "the call has no readable createdAt"),
        (item() | {"createdAt": "0001-01-01T00:00:00Z"}, IMPLAUSIBLE),
        (item() | {"createdAt": "9999-12-31T23:59:59Z"}, IMPLAUSIBLE),
        (item() | {"createdAt": 0}, IMPLAUSIBLE),
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


@pytest.mark.parametrize(
    "duration",
    [10**400, -(10**400), math.nan, math.inf, -1, 86_401, 1763632800000, "1:05", True, []],
)
def test_a_duration_that_is_none_or_implausible_is_unknown_and_counted(duration: Any) -> None:
    assert parsed(item(duration=duration)).duration_seconds is None
    listed = call_or_set_aside(head_of(as_sent(item(duration=duration))))
    assert isinstance(listed, ListedCall)
    assert listed.is_duration_odd


def test_values_of_another_type_are_read_where_their_meaning_is_plain() -> None:
    call = parsed(
        item(123456)  # type: ignore[arg-type]
        | {"fromNumber": 15550100001, "agentId": 7.0, "contactId": True, "messageId": "m" * 9000}
        | {"duration": " 65.5 ", "trialCall": "True", "isAgentDeleted": 0}
    )
    assert (call.call_id, call.from_number, call.agent_id) == ("123456", "15550100001", "7")
    assert (call.contact_id, call.message_id) == (None, None)
    assert (call.duration_seconds, call.is_trial, call.is_agent_deleted) == (65.5, True, False)
    for nothing in (None, ""):
        call = parsed(item(duration=nothing, trialCall="no"))
        assert (call.duration_seconds, call.is_trial) == (None, None)


def test_an_integer_of_5000_digits_becomes_text() -> None:
    text = json.dumps(item(extractedData="@")).replace('"@"', '{"n": %s}' % ("9" * 5000))
    call = call_or_set_aside(head_of(msgspec.Raw(text.encode())))
    assert isinstance(call, ListedCall)
    assert call_of(call).extracted_data == {"n": "9" * 5000}


@pytest.mark.parametrize("depth", [DEEPEST - 1, 100_000])
def test_json_that_nests_too_deeply_is_cut_there_and_nowhere_else(depth: int) -> None:
    deep = "[" * depth + '"]}{["' + "]" * depth
    text = json.dumps({"a": 1, "b": "@", "c": [{"d": '"[['}]}).replace('"@"', deep)
    value = json.loads(deep_json.cut(text))
    assert (value["a"], value["c"]) == (1, [{"d": '"[['}])
    inner = value["b"]
    for _ in range(DEEPEST - 1):
        (inner,) = inner
    assert inner == ("nested too deeply" if depth > DEEPEST else "]}{[")


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


@settings(max_examples=60)
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
    raw = redact_call(fields | item())
    content = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    call = parsed(fields | item())
    assert call.content == content
    assert call.content_hash == hashlib.sha256(content).digest()


def test_the_content_of_an_ordinary_call_is_what_it_always_was() -> None:
    """Tables hold these hashes: another spelling would write every call again."""
    raw = item(
        "a", duration=12.5, trialCall=False, summary='é "x"\n', extractedData={"b": 0, "a": {}}
    )
    assert parsed(raw).content.decode() == (
        '{"createdAt":"2026-11-19T00:00:00.000Z","duration":12.5,"extractedData":{"a":{},"b":0},'
        '"id":"a","summary":"é \\"x\\"\\n","trialCall":false}'
    )
