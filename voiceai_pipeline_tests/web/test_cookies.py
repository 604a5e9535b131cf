"""What the browser keeps for us can be neither forged, nor used for something else, nor kept."""

import base64
import json
import time

import pytest
from itsdangerous import TimestampSigner

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.web import cookies
from voiceai_pipeline.web.cookies import Seal, Session


def test_what_was_sealed_for_one_purpose_opens_for_no_other() -> None:
    seal = Seal(None)
    sealed = seal.close("flash", {"a": 1})

    assert seal.open("flash", sealed, 60) == {"a": 1}
    assert seal.open("session", sealed, 60) is None


def test_what_was_changed_is_not_opened() -> None:
    seal = Seal(None)
    payload, _, rest = seal.close("session", {"id": "x", "in": False}).partition(".")
    forged = base64.urlsafe_b64encode(json.dumps({"id": "x", "in": True}).encode()).rstrip(b"=")

    assert seal.open("session", f"{payload}.{rest}", 60) is not None
    assert seal.open("session", f"{forged.decode()}.{rest}", 60) is None
    assert seal.open("session", "", 60) is None
    assert seal.open("session", None, 60) is None


def test_what_is_too_old_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    seal = Seal(None)
    sealed = seal.close("session", "x")
    later = int(time.time()) + cookies.SESSION_LIFE + 2
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self: later)

    assert seal.open("session", sealed, cookies.SESSION_LIFE) is None


def test_with_a_password_sessions_outlive_a_restart_and_end_when_it_changes() -> None:
    sealed = Seal(Secret("a password of length")).close("session", "x")

    assert Seal(Secret("a password of length")).open("session", sealed, 60) == "x"
    assert Seal(Secret("another one of length")).open("session", sealed, 60) is None
    assert Seal(None).open("session", sealed, 60) is None


def test_a_forms_token_is_good_for_its_own_session_only() -> None:
    seal = Seal(None)
    mine, other = Session.fresh(), Session.fresh()
    token = cookies.form_token(seal, mine)

    assert cookies.is_form_token(seal, mine, token)
    assert not cookies.is_form_token(seal, other, token)
    assert not cookies.is_form_token(seal, mine, mine.id)
