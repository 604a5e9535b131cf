"""Cookies cannot be forged, used for another purpose, or used after they expire."""

import base64
import json
import time

import pytest
from itsdangerous import TimestampSigner

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.web import cookies
from voiceai_pipeline.web.cookies import Session, Signer


def test_a_value_signed_for_one_purpose_is_invalid_for_another() -> None:
    signer = Signer(None)
    signed = signer.sign("flash", {"a": 1})

    assert signer.unsign("flash", signed, 60) == {"a": 1}
    assert signer.unsign("session", signed, 60) is None


def test_a_changed_value_is_invalid() -> None:
    signer = Signer(None)
    payload, _, rest = signer.sign("session", {"id": "x", "in": False}).partition(".")
    forged = base64.urlsafe_b64encode(json.dumps({"id": "x", "in": True}).encode()).rstrip(b"=")

    assert signer.unsign("session", f"{payload}.{rest}", 60) is not None
    assert signer.unsign("session", f"{forged.decode()}.{rest}", 60) is None
    assert signer.unsign("session", "", 60) is None
    assert signer.unsign("session", None, 60) is None


def test_an_expired_value_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(None)
    signed = signer.sign("session", "x")
    later = int(time.time()) + cookies.SESSION_LIFE + 2
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self: later)

    assert signer.unsign("session", signed, cookies.SESSION_LIFE) is None


def test_sessions_survive_a_restart_and_become_invalid_with_a_new_password() -> None:
    signed = Signer(Secret("a password of length")).sign("session", "x")

    assert Signer(Secret("a password of length")).unsign("session", signed, 60) == "x"
    assert Signer(Secret("another one of length")).unsign("session", signed, 60) is None
    assert Signer(None).unsign("session", signed, 60) is None


def test_a_form_token_is_valid_in_its_own_session_only() -> None:
    signer = Signer(None)
    mine, other = Session.new(), Session.new()
    token = cookies.form_token(signer, mine)

    assert cookies.is_form_token(signer, mine, token)
    assert not cookies.is_form_token(signer, other, token)
    assert not cookies.is_form_token(signer, mine, mine.id)
