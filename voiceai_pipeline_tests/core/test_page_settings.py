"""What protects the page: refusals when the settings would leave it open."""

import pytest

from voiceai_pipeline.core.settings import Settings
from voiceai_pipeline.core.settings_parsing import SettingsError

LONG = "a-secret-of-24-characters"


@pytest.mark.parametrize("host", ["fd00::7", "10.0.0.5"])
def test_a_page_that_others_can_reach_needs_a_secret(host: str) -> None:
    with pytest.raises(SettingsError, match="VOICEAI_PAGE_SECRET"):
        Settings.load({"VOICEAI_PAGE_HOST": host})
    page = Settings.load({"VOICEAI_PAGE_HOST": host, "VOICEAI_PAGE_SECRET": LONG}).page
    assert page.secret is not None
    assert page.secret.reveal() == LONG
    assert LONG not in repr(page)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://calls.example.test"),  # noqa: S104 - read, not bound
        ("203.0.114.5", ""),
        ("voice.example.test", ""),
    ],
)
def test_plain_http_on_a_public_address_needs_a_trusted_proxy(host: str, url: str) -> None:
    env = {"VOICEAI_PAGE_HOST": host, "VOICEAI_PAGE_SECRET": LONG, "VOICEAI_PAGE_URL": url}
    with pytest.raises(SettingsError, match="in plain text") as refused:
        Settings.load(env)
    assert "set VOICEAI_TRUSTED_PROXIES to its address" in str(refused.value)
    proxied = Settings.load(env | {"VOICEAI_TRUSTED_PROXIES": "10.0.0.7, 10.1.0.0/16"}).page
    assert proxied.trusted_proxies == ("10.0.0.7", "10.1.0.0/16")
    with pytest.raises(SettingsError, match="VOICEAI_TRUSTED_PROXIES"):
        Settings.load(env | {"VOICEAI_TRUSTED_PROXIES": "everyone"})


def test_analysts_need_a_password_of_their_own_beside_the_operators() -> None:
    page = {"VOICEAI_PAGE_SECRET": LONG}
    for env in ({"VOICEAI_ANALYST_SECRET": LONG}, page | {"VOICEAI_ANALYST_SECRET": LONG}):
        with pytest.raises(SettingsError, match="Set two different ones"):
            Settings.load(env)
    assert Settings.load(page | {"VOICEAI_ANALYST_SECRET": LONG[::-1]}).page.analyst_secret


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::0"])  # noqa: S104 - read, not bound
def test_a_page_on_every_address_needs_a_public_url(host: str) -> None:
    env = {"VOICEAI_PAGE_HOST": host, "VOICEAI_PAGE_SECRET": LONG}
    with pytest.raises(SettingsError) as refused:
        Settings.load(env)
    assert str(refused.value) == (
        f"VOICEAI_PAGE_HOST is {host}, which stands for every address of this machine and works "
        "in no link, and VOICEAI_PAGE_URL is not set. Set it to the page's public URL, such as "
        "https://calls.example.test: links, HighLevel's redirect and the host names that the page "
        "accepts depend on it."
    )
    loaded = Settings.load(env | {"VOICEAI_PAGE_URL": "https://calls.example.test"})
    assert loaded.page.host == host
    assert loaded.highlevel.redirect_uri == "https://calls.example.test/oauth/callback"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_page_on_loopback_needs_none(host: str) -> None:
    page = Settings.load({"VOICEAI_PAGE_HOST": host}).page
    assert page.url == f"http://{'[::1]' if host == '::1' else host}:8791"
