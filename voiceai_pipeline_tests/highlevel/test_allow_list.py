"""What is kept of a call and of an agent, and what is not."""

import hashlib
import json
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from voiceai_pipeline.connections.vault import CALL_LABEL
from voiceai_pipeline.core.call import ACTION_TYPES, ListedCall
from voiceai_pipeline.highlevel.allow_list import RULES, redact_agent, redact_call
from voiceai_pipeline.highlevel.calls import call_of
from voiceai_pipeline.highlevel.redaction import NUMBER, REDACTED
from voiceai_pipeline.sandbox.calls import action_parameters
from voiceai_pipeline_tests.support.call_columns import values_of
from voiceai_pipeline_tests.support.contract import EXAMPLES
from voiceai_pipeline_tests.support.planted_secrets import (
    action,
    every_secret,
    leaks,
    planted_actions,
    planted_texts,
)


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def test_no_planted_secret_survives() -> None:
    call = {"executedCallActions": planted_actions(), **planted_texts()}
    agent = {"id": "a", "actions": planted_actions(), "agentPrompt": planted_texts()["summary"]}
    assert leaks(text_of([call, agent]), every_secret()) == every_secret()
    assert leaks(text_of([redact_call(call), redact_agent(agent)]), every_secret()) == []


SECRETS = st.from_regex(r"[A-Za-z0-9_-]{6,10}[0-9][A-Za-z][0-9]{4}", fullmatch=True)
NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["settings", "apiDetails", "auth", "key", "value", "example", "config", "url", "examples"]
)
TEXTS = st.sampled_from(
    [
        "{}",
        "https://h.example.test/{}",
        "https://u:{}@h.example.test",
        "?k={}",
        "Bearer {}",
        "a {} b",
    ]
)
UNPUBLISHED = st.sampled_from(
    ["token_value", "authValue", "body", "signingKey", "options", "note", "pin", "client", "x"]
)


@settings(max_examples=1000, deadline=None)
@given(
    secret=SECRETS,
    form=TEXTS,
    kind=st.sampled_from([*sorted(ACTION_TYPES), "WEBHOOK", "mcp.tool", 7, None]),
    name=UNPUBLISHED,
    path=st.lists(NAMES | st.none(), max_size=5),
    place=st.integers(0, 5),
)
def test_no_invented_place_of_a_call_keeps_a_secret(
    secret: str, form: str, kind: Any, name: str, path: list[str | None], place: int
) -> None:
    hidden: Any = {name: form.format(secret)}
    for step in path:
        hidden = [hidden] if step is None else {step: hidden}
    sent = action(kind, action_parameters("CUSTOM_ACTION", "x"))
    call: dict[str, Any] = {"executedCallActions": [sent], "extractedData": {}}
    match place:
        case 0:
            sent["actionParameters"] = hidden
        case 1:
            sent["actionParameters"]["apiDetails"] |= {f"_{name}": hidden}
        case 2:
            sent[f"_{name}"] = hidden
        case 3:
            call["executedCallActions"] = [[hidden]]
        case 4:
            call[f"_{name}"] = hidden
        case 5:
            call["transcriptWithToolCalls"] = [{"role": "user", f"_{name}": hidden}]
    listed = ListedCall("call-1", datetime(2026, 11, 18, tzinfo=UTC), Raw(text_of(call).encode()))
    stored = values_of(call_of(listed))
    assert leaks(repr(astuple(stored)) + stored.content.decode(), [secret]) == []
    assert redact_call(json.loads(stored.content)) == json.loads(stored.content)


@given(
    secret=SECRETS,
    form=st.sampled_from(
        [
            "Bearer {}", "authorization: {}", "Pwd={};", "postgres://u:{}@h.example.test/x",
            '{{"api_key": "{}"}}', "https://h.example.test/{}", "password={}",
        ]
    ),
    field=st.sampled_from(["summary", "transcript", "extracted", "prompt", "name", "language"]),
    around=st.tuples(st.text(max_size=9), st.text(max_size=9)),
)  # fmt: skip
def test_no_credential_in_a_free_text_is_kept(
    secret: str, form: str, field: str, around: tuple[str, str]
) -> None:
    text = f"{around[0]} {form.format(secret)} {around[1]}"
    sent = action("SMS", {"triggerPrompt": text if field == "prompt" else ""})
    call = {
        "summary": text if field == "summary" else "",
        "transcript": text if field == "transcript" else "",
        "extractedData": {"notes": [text if field == "extracted" else ""]},
        "translation": {"language": text if field == "language" else ""},
        "executedCallActions": [sent | {"actionName": text} if field == "name" else sent],
    }
    assert leaks(text_of(redact_call(call)), [secret]) == []


@pytest.mark.parametrize("kind", sorted(ACTION_TYPES))
def test_the_published_fields_of_an_action_stay(kind: str) -> None:
    parameters = action_parameters(kind, "x")
    kept = redact_call({"executedCallActions": [action(kind, parameters)]})
    if kind == "CUSTOM_ACTION":
        details = parameters["apiDetails"]
        details |= {"url": "https://erp.example.test", "authenticationValue": REDACTED}
        details["headers"] = [header | {"value": REDACTED} for header in details["headers"]]
        details["parameters"][0]["example"] = REDACTED
    assert kept == {"executedCallActions": [action(kind, parameters)]}


def test_of_an_unknown_type_of_action_its_type_times_and_shape_stay() -> None:
    sent = action("WEBHOOK", {"retries": 3, "on": True, "to": ["x"]})
    (kept,) = redact_call({"executedCallActions": [sent]})["executedCallActions"]
    hidden = {"actionId": REDACTED, "actionName": REDACTED}
    assert kept == sent | hidden | {
        "actionParameters": {"retries": NUMBER, "on": True, "to": [REDACTED]}
    }
    (odd,) = redact_call({"executedCallActions": [{"actionType": "sk live", "executedAt": ""}]})[
        "executedCallActions"
    ]
    assert odd == {"actionType": REDACTED, "executedAt": ""}


def test_the_examples_of_the_contract_keep_all_that_is_no_secret() -> None:
    for name in ("call_logs_page.json", "call_logs_page.wild_variant.json"):
        for call in json.loads((EXAMPLES / name).read_text())["callLogs"]:
            kept = redact_call(call)
            assert kept | {"executedCallActions": []} == call | {"executedCallActions": []}
    for agent in json.loads((EXAMPLES / "agents_page.json").read_text())["agents"]:
        assert redact_agent(agent) == agent


def test_stored_calls_are_redacted_again_when_what_is_stored_of_them_changes() -> None:
    """If this is red: increase RULES, give CALL_LABEL another value, and write all three here."""
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
        "unpublished": {"a": [1, "x", None]},
        "transcriptWithToolCalls": [{"role": "user", "content": "Hi", "toolInput": "x"}],
        "executedCallActions": [
            *planted_actions(),
            *(action(kind, action_parameters(kind, "x")) for kind in sorted(ACTION_TYPES)),
        ],
    }
    sent = Raw(json.dumps(item).encode())
    listed = ListedCall("call-1", datetime(2026, 11, 18, 12, tzinfo=UTC), sent)
    *stored, _unheld = astuple(values_of(call_of(listed)))
    digest = hashlib.sha256(repr(tuple(stored)).encode()).hexdigest()[:16]
    assert (RULES, CALL_LABEL, digest) == (2, b"call fingerprint 2", "c38aa07f7e736051")
