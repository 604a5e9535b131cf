"""The short way to a call leads to the same call as the long way."""

import json
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.world import Calls, Shape
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.highlevel import calls
from voiceai_pipeline.highlevel.calls import call_or_set_aside, head_of
from voiceai_pipeline.highlevel.ordinary_calls import ordinary_call
from voiceai_pipeline_tests.support.call_columns import values_of
from voiceai_pipeline_tests.support.planted_secrets import every_secret, leaks, planted_actions
from voiceai_pipeline_tests.support.repetition import repeated

USUAL: list[dict[str, Any]] = json.loads(
    b"[%b]" % Calls(Shape(1, 1, 200, date(2026, 11, 28))).page(0, range(20))
)

ODD = [
    "", " ", "A text", "NUL \x00", "\ud800", "ümlaut", "https://a.test/x?k=1", "a\\/\\/b",
    "it's: so",
    "Basic dTpwYXNz", "token=abc123456", '{"password": "hunter2x"}', "x-api-key: abcdef12",
    "Bearer abcdef123456", "Authorization: abcdef123456", "y" * 501,
]  # fmt: skip
texts = st.sampled_from(ODD)
numbers = st.sampled_from([0, 65, -1, 86_401, 65.0, 1e-7, 10**25])
values = st.recursive(
    st.none() | st.booleans() | texts | numbers,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
changes = st.dictionaries(
    st.sampled_from([*USUAL[0], "translation", "traceId", "unknown"]), values, max_size=3
)
action_changes = st.dictionaries(
    st.sampled_from([*USUAL[0]["executedCallActions"][0], "_id", "unknown"]), values, max_size=2
)


def both_ways(sent: bytes) -> bool:
    """Whether an item is ordinary; both ways must agree then."""
    listed = call_or_set_aside(head_of(msgspec.Raw(sent)))
    if not isinstance(listed, ListedCall):
        return False
    short = ordinary_call(listed)
    if short is None:
        return False
    long = calls._any_call(listed)
    rest = [msgspec.json.decode(one.unheld or b"null") for one in (short, long)]
    assert rest[0] == rest[1]
    short.unheld = long.unheld
    assert values_of(short) == values_of(long)
    return True


@settings(max_examples=repeated(150, 20_000))
@given(
    item=st.sampled_from(USUAL),
    changed=changes,
    of_action=action_changes,
    dropped=st.sets(st.sampled_from([*USUAL[0]]), max_size=3),
)
@example(item=USUAL[0], changed={"extractedData": None}, of_action={}, dropped=set())
@example(item=USUAL[0], changed={"translation": None, "summary": None}, of_action={}, dropped=set())
@example(item=USUAL[0], changed={"createdAt": "2026-11-28 10:00:00"}, of_action={}, dropped=set())
def test_the_short_way_and_the_long_way_lead_to_the_same_call(
    item: dict[str, Any], changed: dict[str, Any], of_action: dict[str, Any], dropped: set[str]
) -> None:
    first, *others = item["executedCallActions"]
    changed = {"executedCallActions": [first | of_action, *others], **changed}
    made = {name: value for name, value in (item | changed).items() if name not in dropped}
    both_ways(json.dumps(made).encode())


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_text_anywhere_means_the_same_both_ways(odd: str) -> None:
    (first, *_), extracted = USUAL[0]["executedCallActions"], {"a": odd, odd: ["b", {"c": odd}]}
    for name in [*USUAL[0], "translation", "unknown"]:
        both_ways(json.dumps(USUAL[0] | {name: odd}).encode())
    for name in [*first, "unknown"]:
        both_ways(json.dumps(USUAL[0] | {"executedCallActions": [first | {name: odd}]}).encode())
    for changed in (
        {"extractedData": extracted},
        {"translation": {"transcript": odd, odd: 1}},
        {"executedCallActions": [first | {"actionParameters": extracted}]},
    ):
        both_ways(json.dumps(USUAL[0] | changed).encode())


def test_a_usual_call_goes_the_short_way() -> None:
    """Also with fields that are null or left out; else each would take three times as long."""
    for item in USUAL:
        assert both_ways(json.dumps(item).encode())
        assert both_ways(json.dumps(item | {"translation": None, "contactId": None}).encode())
        empty = {"summary": "", "transcript": "", "executedCallActions": []}
        assert both_ways(json.dumps(item | empty).encode())
        sparse = {name: item[name] for name in ("id", "createdAt", "executedCallActions")}
        assert both_ways(json.dumps(sparse).encode())


def test_a_name_that_is_sent_twice_means_the_same_both_ways() -> None:
    sent = json.dumps(USUAL[0])[:-1] + ', "summary": "The second one."}'
    assert both_ways(sent.encode())


@pytest.mark.parametrize("_round", ["first", "remembered"])
def test_no_secret_of_an_action_is_kept_the_short_way(_round: str) -> None:
    for action in planted_actions():
        sent = json.dumps(USUAL[0] | {"executedCallActions": [action]}).encode()
        both_ways(sent)
        listed = call_or_set_aside(head_of(msgspec.Raw(sent)))
        assert isinstance(listed, ListedCall)
        call = calls.call_of(listed)
        kept = str(values_of(call)) + call.content.decode()
        assert leaks(kept, every_secret()) == []
