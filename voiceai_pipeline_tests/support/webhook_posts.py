"""Posting webhook messages as HighLevel or an attacker would."""

import json
from collections.abc import Mapping
from typing import Any

import requests

from voiceai_pipeline.sandbox.webhooks import message, signature

PATH = "/webhooks/highlevel"


def call_ended(call: Mapping[str, Any], location_id: str) -> dict[str, Any]:
    """The body that announces a call of the sandbox."""
    return message("VoiceAiCallEnd", 1_790_000_000_000, locationId=location_id, **call)


def post(
    url: str, body: dict[str, Any] | bytes, *, signed: bool = True, **headers: str
) -> requests.Response:
    """Send a body, signed by the sandbox unless told otherwise; ``X_GHL_Signature=...`` sends a
    header."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"X-GHL-Signature": signature(raw)} if signed else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(
        url + PATH, data=raw, headers={"Content-Type": "application/json", **given}, timeout=30
    )
