"""Which messages HighLevel signed, and what they say."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.webhook import MessageType
from voiceai_pipeline.highlevel.webhook import is_signed, message_of

OURS, OLDER, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
KEYS = [key.public_key().public_bytes_raw() for key in (OURS, OLDER)]

CALL = {
    "type": "VoiceAiCallEnd",
    "webhookId": "0d1c5f0e-7b1e-4f0e-9a53-0f6f7f0b3c11",
    "appId": "65f0c0ffee0000000000e000",
    "locationId": "LocHarbor00000000000",
    "id": "6740aa000000000000000001",
    "agentId": "AgtHarbor00000000000",
    "createdAt": "2026-11-20T11:58:00.000Z",
}


def sign(key: Ed25519PrivateKey, body: bytes) -> str:
    return base64.b64encode(key.sign(body)).decode()


def say(**changes: Any) -> Any:
    body = {key: value for key, value in (CALL | changes).items() if value is not None}
    return message_of(json.dumps(body).encode())


@pytest.mark.parametrize("key", [OURS, OLDER])
def test_a_body_signed_with_any_of_the_keys_is_highlevels(key: Ed25519PrivateKey) -> None:
    assert is_signed(b'{"a": 1}', sign(key, b'{"a": 1}'), KEYS)


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "N/A",
        "é",
        "====",
        sign(STRANGER, b"{}"),
        sign(OURS, b"{} "),
        sign(OURS, b"{}")[:-4],
    ],
)
def test_a_missing_or_wrong_signature_proves_nothing(signature: str | None) -> None:
    assert not is_signed(b"{}", signature, KEYS)


def test_the_same_json_written_again_is_not_what_was_signed() -> None:
    sent = b'{"b": 1,  "a": 2}'
    again = json.dumps(json.loads(sent)).encode()

    assert not is_signed(again, sign(OURS, sent), KEYS)


@given(body=st.binary(max_size=200), flip=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_changed_bit_of_a_signature_is_overlooked(body: bytes, flip: int, bit: int) -> None:
    changed = bytearray(OURS.sign(body))
    changed[flip] ^= 1 << bit

    assert not is_signed(body, base64.b64encode(bytes(changed)).decode(), KEYS)


def test_the_published_key_is_the_default_for_a_real_app() -> None:
    env = {"HIGHLEVEL_CLIENT_ID": "65f0-x", "HIGHLEVEL_CLIENT_SECRET": "s"}
    key = "8b61d1d6cacbe28d7c3bc0516bb815258ec6edbba96cddc7f40c09ac708388e8"  # CONTRACT 13.3

    assert Settings.load(env).highlevel.webhook_keys == (bytes.fromhex(key),)


def test_a_calls_end_names_its_call_location_and_start() -> None:
    message = say()

    assert message.type is MessageType.CALL_ENDED
    assert message.message_id == CALL["webhookId"]
    assert (message.location_id, message.call_id) == (CALL["locationId"], CALL["id"])
    assert message.call_started_at == datetime(2026, 11, 20, 11, 58, tzinfo=UTC)


@pytest.mark.parametrize("name", ["VoiceAiCallEnd", "VOICE_AI_CALL_END", None])
def test_a_calls_end_is_recognized_by_every_spelling_of_its_type(name: str | None) -> None:
    assert say(type=name).type is MessageType.CALL_ENDED


@pytest.mark.parametrize("name", ["ContactCreate", "", 7, {}, ["INSTALL"]])
def test_a_type_that_is_not_ours_is_other(name: object) -> None:
    assert say(type=name).type is MessageType.OTHER


@pytest.mark.parametrize(("name", "kind"), [("INSTALL", "installed"), ("UNINSTALL", "uninstalled")])
def test_installs_and_removals_name_a_location_or_an_agency(name: str, kind: str) -> None:
    agency = say(type=name, locationId=None, companyId="CmpNorthwind00000000")

    assert say(type=name).type == kind
    assert (agency.location_id, agency.company_id) == (None, "CmpNorthwind00000000")


@pytest.mark.parametrize("odd", ["", " ", "a\x00b", "x" * 101, "Ünïcode", 5, None, {"id": "x"}])
def test_what_is_no_id_is_read_as_absent(odd: object) -> None:
    assert say(locationId=odd).location_id is None


@pytest.mark.parametrize("odd", ["yesterday", "", True, None, [], 10**30])
def test_a_start_that_is_no_time_is_unknown(odd: object) -> None:
    assert say(createdAt=odd).call_started_at is None


def test_without_an_id_of_its_own_equal_bodies_are_one_message() -> None:
    first, again, other = say(webhookId=None), say(webhookId=None), say(webhookId=None, id="b")

    assert first.message_id == again.message_id != other.message_id


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 5000])
def test_a_body_that_is_no_object_is_no_message(body: bytes) -> None:
    assert message_of(body) is None
