"""What is taken out of JSON by its names, and what stays."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voiceai_pipeline.highlevel.redaction import NUMBER, REDACTED, clean, redact, shape

CANARY = "CANARY-d41d8cd9"

# Where a canary may sit (CONTRACT 2.4), each as a value with a name it stands under.
PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "authenticationValue": lambda c: {"authenticationValue": c},
    "header list": lambda c: {"headers": [{"key": "x-anything", "value": c}]},
    "header list by name": lambda c: {"headers": [{"name": "x-anything", "val": c}]},
    "header dict": lambda c: {"headers": {"x-anything": c}},
    "header text": lambda c: {"headers": f"x-anything: {c}"},
    "nested header": lambda c: {"headers": [{"key": {"odd": c}, "value": [c]}]},
    "list in header list": lambda c: {"headers": [[c], c]},
    "request headers": lambda c: {"requestHeaders": [{"key": "x", "value": c}]},
    "user info": lambda c: {"url": f"https://user:{c}@erp.example.test/orders"},
    "user name": lambda c: {"url": f"https://{c}@erp.example.test"},
    "query": lambda c: {"url": f"https://erp.example.test/orders?a=b&key={c}"},
    "fragment": lambda c: {"url": f"https://erp.example.test/#access_token={c}"},
    "padded url": lambda c: {"url": f"  https://user:{c}@erp.example.test/ "},
    "url without scheme": lambda c: {"webhookUrl": f"user:{c}@erp.example.test/x?k={c}#{c}"},
    "url without host's scheme": lambda c: {"uri": f"//user:{c}@erp.example.test/x?k={c}"},
    "url in a text": lambda c: {"messageBody": f"Book at https://b.example.test/x?t={c} today"},
    "database url": lambda c: {"triggerPrompt": f"postgres://u:{c}@db.example.test/x"},
    "broken url": lambda c: {"url": f"https://[{c}"},
    "parameter": lambda c: {"parameters": [{"name": "api_key", "type": "string", "example": c}]},
    "parameter value": lambda c: {"parameters": [{"key": "Authorization", "value": f"Bearer {c}"}]},
    "parameter default": lambda c: {"parameters": [{"Name": "accessToken", "Default": c}]},
    "parameter list": lambda c: {"parameters": [{"name": "client secret", "value": [c]}]},
} | {
    name: lambda c, name=name: {name: c}
    for name in (
        "api-key", "apiKey", "API_KEY", "access token", "accessTokenValue", "refresh_token",
        "clientSecret", "password", "passwd", "pwd", "bearer", "Authorization", "credentials",
        "private_key", "Cookie", "token", "botToken", "Ocp-Apim-Subscription-Key", "signature",
    )
}  # fmt: skip


def kept(value: Any) -> Any:
    return clean(redact(value))


def hidden(value: Any) -> bool:
    return CANARY not in json.dumps(kept(value), ensure_ascii=False)


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_does_not_survive(place: str) -> None:
    assert hidden(PLACES[place](CANARY))


@pytest.mark.parametrize("place", [p for p in PLACES if '["x"]' in json.dumps(PLACES[p](["x"]))])
@pytest.mark.parametrize("odd", [[CANARY], {"deep": [CANARY]}])
def test_a_secret_of_an_unexpected_type_does_not_survive(place: str, odd: object) -> None:
    assert hidden(PLACES[place](odd))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=6,
)
STEPS = st.sampled_from(
    ["apiDetails", "actionParameters", "executedCallActions", "parameters", "extractedData", 0]
)


@given(
    place=st.sampled_from(sorted(PLACES)),
    steps=st.lists(STEPS | st.text(max_size=5), max_size=8),
    beside=st.dictionaries(st.text(max_size=8), JSON, max_size=3),
)
def test_no_depth_hides_a_secret(place: str, steps: list[Any], beside: dict[str, Any]) -> None:
    value: Any = beside | PLACES[place](CANARY)
    for step in steps:
        value = [beside, value] if step == 0 else beside | {step: value}
    assert hidden(value)


@given(JSON | st.dictionaries(st.sampled_from(sorted(PLACES)), JSON, max_size=4))
def test_redacting_twice_changes_nothing(value: Any) -> None:
    once = kept(value)
    assert kept(once) == once


@given(JSON | st.dictionaries(st.sampled_from(sorted(PLACES)), JSON, max_size=4))
def test_a_shape_is_the_same_of_what_is_redacted_already(value: Any) -> None:
    assert shape(kept(value)) == clean(shape(value))


def test_a_shape_tells_names_and_types_only() -> None:
    value = {"a": ["x", 1, 2.5], "b": {"c": True, "d": None}, "e": "", "f" * 65: "x"}
    told = {"a": [REDACTED, NUMBER, NUMBER], "b": {"c": True, "d": None}, "e": ""}
    assert shape(value) == told | {REDACTED: REDACTED}


URLS = st.from_regex(r"[a-zA-Z]{1,6}://[a-z:@/?#\[\]. &=%]{0,12}", fullmatch=True)


@given(URLS | st.tuples(URLS, URLS).map(" ".join), st.sampled_from(["url", "text", "api_key"]))
def test_redacting_a_url_twice_changes_nothing(url: str, name: str) -> None:
    once = kept({name: url})
    assert kept(once) == once


PEOPLE = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00:"))


@given(
    number=st.from_regex(r"\+1555[0-9]{7}", fullmatch=True),
    texts=st.tuples(PEOPLE, PEOPLE),
    extracted=st.dictionaries(
        st.sampled_from(["customerName", "email", "visit date", "notes", "key", "orderId"]),
        PEOPLE | st.integers() | st.booleans() | st.none(),
    ),
)
def test_what_callers_said_is_unchanged(
    number: str, texts: tuple[str, str], extracted: dict[str, Any]
) -> None:
    call = {
        "fromNumber": number,
        "transcript": f"bot:Hello\nhuman:{texts[0]}",
        "summary": texts[1],
        "extractedData": extracted,
    }
    assert kept(call) == call


def test_absent_secrets_stay_absent() -> None:
    value = {"authenticationValue": None, "headers": None, "apiKeyRequired": False}
    assert kept(value) == value


def test_redacting_leaves_the_original_alone() -> None:
    value = {"headers": [{"key": "x", "value": "y"}], "a": ["\x00"]}
    before = copy.deepcopy(value)
    kept(value)
    assert value == before


def test_what_postgresql_cannot_store_is_replaced() -> None:
    value = {"a\x00": ["\x00", "\ud800", math.nan, math.inf], "headers": {"k\x00": 1}}
    assert kept(value) == {
        "a\ufffd": ["\ufffd", "?", None, None],
        "headers": {"k\ufffd": REDACTED},
    }
    listed = kept({"headers": [{"key": "x\x00", "v\x00": "y"}]})
    assert listed == {"headers": [{"key": "x\ufffd", "v\ufffd": REDACTED}]}
