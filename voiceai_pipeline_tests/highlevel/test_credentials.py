"""What is taken out of a text, and what stays."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voiceai_pipeline.highlevel.credentials import (
    REDACTED,
    bare_url,
    may_hold_credentials,
    without_credentials,
)

CANARY = "CANARY-d41d8cd9"
BASIC = base64.b64encode(f"u:{CANARY}".encode()).decode()

TEXTS = [
    f"Bearer {CANARY}",
    f"use bearer {CANARY}, please",
    f"Bearer bearer {CANARY}",
    f"Bearer%20{CANARY}",
    f"Authorization: Bearer {CANARY}",
    f"authorization={CANARY}",
    f"curl -H 'Authorization: Token {CANARY}' https://crm.example.test/x",
    f"curl -H 'x-api-key: {CANARY}'",
    f"Basic {BASIC}",
    f"Basic {BASIC.rstrip('=')}",
    json.dumps({"headers": {"Authorization": f"Bearer {CANARY}"}}),
    json.dumps(json.dumps({"password": CANARY})),
    str({"api_key": CANARY}),
    f"Server=db.example.test;Uid=u;Pwd={CANARY}",
    f"Server=db.example.test;Uid=u;Pwd={{{CANARY};x}};Encrypt=yes",
    f"host=db.example.test user=u password='{CANARY}'",
    f"AccountName=a;AccountKey={CANARY}==;EndpointSuffix=core.example.test",
    f"Endpoint=sb://h.example.test/;SharedAccessKey={CANARY}",
    f"postgres://u:{CANARY}@db.example.test/x",
    f"éhttps://u:{CANARY}@db.example.test",
    f"mongodb+srv://u:{CANARY}@a.example.test,b.example.test/x",
    f"redis://:{CANARY}@cache.example.test:6379/0",
    f"jdbc:postgresql://db.example.test/x?user=u&password={CANARY}",
    rf"https:\/\/hooks.example.test\/services\/{CANARY}",
    f"https://hooks.example.test/services/{CANARY}",
    f"https://crm.example.test/#access_token={CANARY}",
    f"https://[{CANARY}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_credential_does_not_survive(text: str) -> None:
    for around in ("{}", "human:I use {} here\nbot:Thanks"):
        told = without_credentials(around.format(text))
        assert CANARY[:12] not in told
        assert BASIC[:12] not in told
        assert without_credentials(told) == told
        assert ("bot:Thanks" in around) <= ("bot:Thanks" in told)


@pytest.mark.parametrize("text", TEXTS)
def test_the_short_look_finds_every_credential(text: str) -> None:
    assert may_hold_credentials(json.dumps({"summary": text}, ensure_ascii=False).encode())


@given(st.text(max_size=60) | st.text(alphabet="Bearbsic:/=\"'\\ keypwd@.?[]{}", max_size=40))
def test_what_the_short_look_lets_through_is_unchanged_and_twice_is_once(text: str) -> None:
    once = without_credentials(text)
    assert without_credentials(once) == once
    content = json.dumps(text.encode(errors="replace").decode()).encode()
    assert may_hold_credentials(content) or once == text


@pytest.mark.parametrize(
    "text",
    [
        "bot:What is your password?\nhuman:I do not tell.",
        "human:my token of appreciation, secret recipe, cookie",
        "human:The key: under the mat",
        "Bearer of good news",
        "the bearer certificate, a bearer well-known in town",
        "Some basic information and Basic training.",
        "authorization of the insurer is pending",
        'He said "yes": all is well',
        "2 + 2 = 4",
        "ratio 3://4",
        "user@example.test",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert without_credentials(text) == text


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://www.example.test/menu", "https://www.example.test"),
        ("HTTPS://Example.test:8443/Menu.", "HTTPS://Example.test:8443."),
        ("https://u:p@example.test?k=v", "https://example.test"),
        ("https://[::1]:80/x", "https://[::1]:80"),
        ("https://user:pa/ss@example.test", "https://user"),
        ("erp.example.test/orders?key=EXAMPLE", "erp.example.test"),
        ("u:p@erp.example.test/x", "erp.example.test"),
        ("https://", REDACTED),
    ],
)
def test_a_url_keeps_scheme_and_host(url: str, kept: str) -> None:
    assert bare_url(url) == kept
    told = without_credentials(f"see {url} today") if "://" in url else f"see {kept} today"
    assert told == f"see {kept} today"
