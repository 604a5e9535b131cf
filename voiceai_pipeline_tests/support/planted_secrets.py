"""Secrets planted in a call where agencies really put them, and every form a leak may take."""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

SECRET = "SECRET-{}-qv8xw2"


def secret(number: int) -> str:
    """The planted secret of this number."""
    return SECRET.format(number)


def basic(number: int) -> str:
    """Basic credentials with a planted secret as the password."""
    return base64.b64encode(f"u:{secret(number)}".encode()).decode()


def planted_actions() -> list[dict[str, Any]]:
    """Actions with the secrets 1 to 17, one at each place."""
    details: list[dict[str, Any]] = [
        {"url": f"https://hooks.slack.example/services/T000/B000/{secret(1)}"},
        {"url": f"https://api.telegram.example/bot123:{secret(2)}/sendMessage"},
        {"parameters": [{"name": "q", "value": secret(3), "example": secret(4)}]},
        {"authentication": {"type": "bearer", "value": secret(5)}},
        {"auth": secret(6)},
        {"authValue": secret(7)},
        {"signingKey": secret(8)},
        {"passphrase": secret(9)},
        {"body": json.dumps({"headers": {"Authorization": f"Bearer {secret(10)}"}})},
        {"description": f"curl -H 'Authorization: Bearer {secret(11)}' https://crm.example.test/x"},
        {"connectionString": f"Server=db.example.test;Uid=u;Pwd={secret(12)}"},
        {"headers": [{"key": "authorization", "value": f"Basic {basic(14)}"}]},
        {"authenticationValue": secret(15)},
    ]
    actions = [action("CUSTOM_ACTION", {"apiDetails": one}) for one in details]
    actions.append(action("WEBHOOK", {"settings": {"token_value": secret(13)}}))
    actions.append(action("SMS", {"messageBody": f"Book: https://b.example.test/x?t={secret(16)}"}))
    prompt = f"Log in with Bearer {secret(17)} and say hello"
    return [*actions, action("KNOWLEDGE_BASE", {"triggerPrompt": prompt})]


def action(kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """An action of a call, as HighLevel lists it."""
    return {
        "actionId": "65f0c0ffee0000000000ac01",
        "actionType": kind,
        "actionName": "Look up the order",
        "executedAt": "2026-11-20T12:00:30.000Z",
        "triggerReceivedAt": "2026-11-20T12:00:29.000Z",
        "actionParameters": parameters,
    }


def planted_texts() -> dict[str, Any]:
    """Fields of a call with the secrets 18 to 22 in what was said and extracted."""
    return {
        "summary": f"The caller read out postgres://admin:{secret(18)}@db.example.test/crm.",
        "transcript": f"bot:Hello\nhuman:Authorization: Basic {basic(19)}\nbot:Thanks",
        "extractedData": {
            "notes": f'{{"authorization":"Bearer {secret(20)}"}}',
            "dsn": f"host=db.example.test user=u password={secret(21)}",
        },
        "brandNew": {"webhookAuth": secret(22)},
    }


def every_secret() -> list[str]:
    """All secrets that are planted."""
    return [basic(number) if number in (14, 19) else secret(number) for number in range(1, 23)]


def encodings(value: str) -> Iterator[str]:
    """The seven forms in which a text may turn up."""
    plain = value.encode()
    yield value
    yield from (base64.b64encode(plain).decode(), base64.urlsafe_b64encode(plain).decode())
    yield from (quote(value, safe=""), json.dumps(value)[1:-1])
    yield from (plain.hex(), value[:12])


def leaks(text: str, secrets: Iterable[str]) -> list[str]:
    """The secrets that stand in a text, in any form."""
    return [one for one in secrets if any(form in text for form in encodings(one))]
