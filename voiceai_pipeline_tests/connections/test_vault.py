"""Tokens at rest: what is moved, older, damaged or foreign does not open; keys can be changed."""

import base64
import hashlib
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.failures import FailureClass, PipelineError
from voiceai_pipeline.core.secret import Secret

OLD, NEW = {"old": b"o" * 32}, {"new": b"n" * 32}
USER = UUID("00000000-0000-4000-8000-000000000001")
TOKEN = Secret("INVENTED-TOKEN")


def refusal(open_it: Callable[[], Secret]) -> str:
    with pytest.raises(PipelineError) as caught:
        open_it()
    assert caught.value.failure is FailureClass.TOKEN_UNREADABLE
    text = str(caught.value)
    assert "INVENTED" not in text
    return text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.uuids())
def test_a_token_comes_back_as_it_was(token: str, user_id: UUID) -> None:
    vault = TokenVault(NEW)
    stored = vault.encrypt(Secret(token), "access_token", user_id)
    assert stored.startswith("enc:v2:new:")
    assert vault.decrypt(stored, "access_token", user_id) == Secret(token)


def test_the_same_token_is_never_stored_twice_alike() -> None:
    vault = TokenVault(NEW)
    stored = {vault.encrypt(TOKEN, "access_token", USER) for _ in range(100)}
    assert len(stored) == 100
    assert not any("INVENTED" in text for text in stored)


def test_a_ciphertext_moved_to_another_column_or_user_does_not_open() -> None:
    vault = TokenVault(NEW)
    stored = vault.encrypt(TOKEN, "access_token", USER)
    for column, user_id in (
        ("refresh_token", USER),
        ("location_access_token", USER),
        ("access_token", uuid4()),
    ):
        refusal(lambda c=column, u=user_id: vault.decrypt(stored, c, u))  # type: ignore[misc]


def test_an_older_ciphertext_does_not_open_in_a_newer_row() -> None:
    vault = TokenVault(NEW)
    stored = vault.encrypt(TOKEN, "refresh_token", USER, 7)
    assert vault.decrypt(stored, "refresh_token", USER, 7) == TOKEN
    assert "an older token" in refusal(lambda: vault.decrypt(stored, "refresh_token", USER, 8))


def test_a_value_from_before_generations_opens_and_is_not_current() -> None:
    vault = TokenVault(NEW)
    nonce = b"n" * 12
    context = f"api_keys|refresh_token|{USER}".encode()
    sealed = AESGCM(NEW["new"]).encrypt(nonce, b"INVENTED-TOKEN", context)
    stored = f"enc:v1:new:{base64.b64encode(nonce + sealed).decode()}"
    assert vault.decrypt(stored, "refresh_token", USER, 7) == TOKEN
    assert not vault.is_current(stored)
    assert vault.is_current(vault.encrypt(TOKEN, "refresh_token", USER, 7))


def test_a_key_that_another_process_added_is_found_and_used() -> None:
    ring = dict(OLD)
    vault = TokenVault(ring, reload=lambda: ring)
    stored = TokenVault(NEW).encrypt(TOKEN, "access_token", USER)
    refusal(lambda: vault.decrypt(stored, "access_token", USER))
    ring = {**NEW, **OLD}
    assert vault.decrypt(stored, "access_token", USER) == TOKEN
    assert vault.is_current(vault.encrypt(TOKEN, "access_token", USER))


def test_an_unknown_key_is_named() -> None:
    stored = TokenVault(OLD).encrypt(TOKEN, "access_token", USER)
    text = refusal(lambda: TokenVault(NEW).decrypt(stored, "access_token", USER))
    assert "no key 'old'" in text
    assert "VOICEAI_TOKEN_KEYS" in text


def test_another_key_of_the_same_name_does_not_open_it() -> None:
    stored = TokenVault(OLD).encrypt(TOKEN, "access_token", USER)
    refusal(lambda: TokenVault({"old": b"x" * 32}).decrypt(stored, "access_token", USER))


@given(st.integers(0, 41), st.integers(1, 255))
def test_one_changed_byte_anywhere_does_not_open(position: int, change: int) -> None:
    vault = TokenVault(NEW)
    stored = vault.encrypt(TOKEN, "access_token", USER)
    head, _, encoded = stored.rpartition(":")
    sealed = bytearray(base64.b64decode(encoded))
    assert len(sealed) == 42
    sealed[position] ^= change
    damaged = f"{head}:{base64.b64encode(sealed).decode()}"
    refusal(lambda: vault.decrypt(damaged, "access_token", USER))


@pytest.mark.parametrize(
    "damaged",
    [
        "enc:v2:new:",
        "enc:v2:new",
        "enc:v2:",
        "enc:v2:new:AAAA",
        "enc:v2:new:not base64!",
        "enc:v2:new:ümlaut",
        "enc:v3:new:AAAA",
        "enc:v1:new:AAAA",
        "enc:",
    ],
)
def test_what_was_cut_short_or_is_of_another_version_is_not_taken_for_a_token(
    damaged: str,
) -> None:
    refusal(lambda: TokenVault(NEW).decrypt(damaged, "access_token", USER))


def test_plain_text_of_the_source_system_is_read() -> None:
    assert TokenVault(NEW).decrypt("INVENTED-PLAIN", "access_token", USER) == Secret(
        "INVENTED-PLAIN"
    )


def test_plain_text_is_refused_where_encryption_is_required() -> None:
    strict = TokenVault({"k": b"k" * 32}, refuse_plain=True)
    with pytest.raises(PipelineError, match="VOICEAI_PLAIN_TOKENS=refuse") as refused:
        strict.decrypt("INVENTED-PLAIN", "access_token", UUID(int=1))
    assert refused.value.failure is FailureClass.TOKEN_UNREADABLE
    assert "INVENTED" not in str(refused.value)
    sealed = strict.encrypt(Secret("INVENTED"), "access_token", UUID(int=1))
    assert strict.decrypt(sealed, "access_token", UUID(int=1)) == Secret("INVENTED")


def test_keys_are_rotated_by_putting_the_new_one_first() -> None:
    stored = TokenVault(OLD).encrypt(TOKEN, "access_token", USER)
    both = TokenVault({**NEW, **OLD})
    assert both.decrypt(stored, "access_token", USER) == TOKEN
    rotated = both.encrypt(TOKEN, "access_token", USER)
    assert TokenVault(NEW).decrypt(rotated, "access_token", USER) == TOKEN
    refusal(lambda: TokenVault(OLD).decrypt(rotated, "access_token", USER))


def test_a_calls_fingerprint_tells_calls_apart_and_takes_the_key_to_be_tried_out() -> None:
    one, other = Raw('{"password":"1234"}'), Raw('{"password":"1235"}')
    vault, stranger = TokenVault({"a": b"a" * 32}), TokenVault({"a": b"b" * 32})
    assert vault.call_fingerprint(one) == TokenVault({"a": b"a" * 32}).call_fingerprint(one)
    found = {
        vault.call_fingerprint(one),
        vault.call_fingerprint(other),
        stranger.call_fingerprint(one),
        hashlib.blake2b(one, digest_size=16).digest(),
    }
    assert len(found) == 4


def test_a_ring_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        TokenVault({})
