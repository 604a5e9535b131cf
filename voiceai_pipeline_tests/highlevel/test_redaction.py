"""What is taken out of a call before it is stored, and what stays."""

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from voiceai_pipeline.connections.vault import CALL_LABEL
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.highlevel.calls import call_of
from voiceai_pipeline.highlevel.redaction import REDACTED, redact
from voiceai_pipeline.sandbox.calls import ACTION_TYPES, action_parameters

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


def hidden(value: Any) -> bool:
    return CANARY not in json.dumps(redact(value), ensure_ascii=False)


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
    once = redact(value)
    assert redact(once) == once


URLS = st.from_regex(r"[a-zA-Z]{1,6}://[a-z:@/?#\[\]. &=%]{0,12}", fullmatch=True)


@given(URLS | st.tuples(URLS, URLS).map(" ".join), st.sampled_from(["url", "text", "api_key"]))
def test_redacting_a_url_twice_changes_nothing(url: str, name: str) -> None:
    once = redact({name: url})
    assert redact(once) == once


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
    assert redact(call) == call


@pytest.mark.parametrize(
    "text",
    [
        "bot:What is your password?\nhuman:I do not tell.",
        "human:my token of appreciation, secret recipe, cookie",
        "Bearer of good news",
        "https://www.example.test/menu",
        "HTTPS://Example.test/Menu.",
        "see https://www.example.test/menu, page 2?",
        "ratio 3://4",
        "user@example.test",
    ],
)
def test_a_text_without_credentials_stays(text: str) -> None:
    value = {"transcript": text, "summary": text, "extractedData": {"note": text}}
    assert redact(value) == value


def test_the_shape_of_an_action_stays_readable() -> None:
    action = {
        "actionType": "CUSTOM_ACTION",
        "actionParameters": {
            "apiDetails": {
                "url": "https://erp.example.test/orders?key=EXAMPLE",
                "method": "GET",
                "authenticationRequired": True,
                "authenticationValue": "EXAMPLE",
                "headers": [{"key": "x-api-key", "value": "EXAMPLE"}],
                "parameters": [{"name": "orderId", "example": "ORD-1"}],
            }
        },
    }
    details = redact(action)["actionParameters"]["apiDetails"]
    assert details == {
        "url": f"https://erp.example.test/orders?{REDACTED}",
        "method": "GET",
        "authenticationRequired": True,
        "authenticationValue": REDACTED,
        "headers": [{"key": "x-api-key", "value": REDACTED}],
        "parameters": [{"name": "orderId", "example": "ORD-1"}],
    }


def test_absent_secrets_stay_absent() -> None:
    value = {"authenticationValue": None, "headers": None, "apiKeyRequired": False}
    assert redact(value) == value


@pytest.mark.parametrize("kind", ACTION_TYPES)
def test_the_sandboxs_actions_tell_no_secret(kind: str) -> None:
    text = json.dumps(redact(action_parameters(kind, "test")))
    assert "SECRET" not in text.upper().replace(REDACTED.upper(), "")


def test_redacting_leaves_the_original_alone() -> None:
    value = {"headers": [{"key": "x", "value": "y"}], "a": ["\x00"]}
    before = copy.deepcopy(value)
    redact(value)
    assert value == before


def test_what_postgresql_cannot_store_is_replaced() -> None:
    value = {"a\x00": ["\x00", "\ud800", math.nan, math.inf], "headers": {"k\x00": 1}}
    assert redact(value) == {
        "a\ufffd": ["\ufffd", "?", None, None],
        "headers": {"k\ufffd": REDACTED},
    }
    listed = redact({"headers": [{"key": "x\x00", "v\x00": "y"}]})
    assert listed == {"headers": [{"key": "x\ufffd", "v\ufffd": REDACTED}]}


def test_calls_are_parsed_again_when_what_is_stored_of_them_changes() -> None:
    """If this is red: give CALL_LABEL another value, and write both here."""
    item = {
        "id": "call-1",
        "createdAt": "2026-11-18T12:00:00.000Z",
        "agentId": "agent-1",
        "contactId": "contact-1",
        "fromNumber": "+15550100001",
        "duration": 61.5,
        "trialCall": False,
        "isAgentDeleted": True,
        "summary": "Asked for an appointment.",
        "transcript": "bot:Hello\nhuman:Ünder https://user:pw@b.example.test/x?t=1",
        "extractedData": {"name": "Kim", "secret code": "1"},
        "translation": {"language": "de"},
        "messageId": "message-1",
        "executedCallActions": [
            {"actionType": "CUSTOM_ACTION", "actionParameters": place(CANARY)}
            for place in PLACES.values()
        ],
    }
    sent = Raw(json.dumps(item).encode())
    stored = call_of(ListedCall("call-1", datetime(2026, 11, 18, 12, tzinfo=UTC), sent))
    digest = hashlib.sha256(repr(astuple(stored)).encode()).hexdigest()[:16]
    assert (CALL_LABEL, digest) == (b"call fingerprint", "347b6ff013c10818")
