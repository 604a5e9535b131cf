"""Settings from the environment: defaults, accepted spellings, and a sentence for each mistake."""

import base64
import datetime as dt
import os
import re
import subprocess
import sys
import traceback
from decimal import Decimal
from pathlib import Path

import pytest

from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.core.settings import (
    SANDBOX_WEBHOOK_KEY,
    VARIABLES,
    MetricRules,
    Settings,
)
from voiceai_pipeline.core.settings_parsing import (
    SettingsError,
    parse_keys,
    start_date_of,
    timezone_of,
)
from voiceai_pipeline.sandbox.cast import (
    SANDBOX_APP_ID,
    SANDBOX_APP_VERSION_ID,
    SANDBOX_CLIENT_ID,
    SANDBOX_CLIENT_SECRET,
)
from voiceai_pipeline.sandbox.webhooks import SIGNING_KEY

ROOT = Path(__file__).resolve().parents[2]
REAL = {"HIGHLEVEL_CLIENT_ID": "app-1", "HIGHLEVEL_CLIENT_SECRET": "EXAMPLE-SECRET"}
KEY = base64.b64encode(b"k" * 32).decode()
OTHER = base64.b64encode(b"o" * 32).decode()


def test_an_empty_environment_means_the_sandbox_and_the_embedded_server() -> None:
    settings = Settings.load({})
    assert settings.database_url is settings.dagster_url is None
    assert settings.home == Path(".voiceai").absolute()
    assert settings.timezone.key == "UTC"
    assert settings.token_keys == {}
    highlevel = settings.highlevel
    assert highlevel.is_sandbox
    assert highlevel.client_id == SANDBOX_CLIENT_ID
    assert highlevel.client_secret == Secret(SANDBOX_CLIENT_SECRET)
    assert highlevel.app_id == SANDBOX_APP_ID
    assert highlevel.webhook_keys == (SIGNING_KEY.public_key().public_bytes_raw(),)
    assert highlevel.api_url == "http://127.0.0.1:8790"
    assert highlevel.api_version == "dated"
    assert start_date_of({}) == dt.date(2025, 1, 1)


def test_an_empty_value_counts_as_unset() -> None:
    assert Settings.load(dict.fromkeys(VARIABLES, " ")) == Settings.load({})


def test_a_client_id_means_the_real_highlevel() -> None:
    highlevel = Settings.load(REAL).highlevel
    assert not highlevel.is_sandbox
    assert highlevel.api_url == "https://services.leadconnectorhq.com"
    assert highlevel.token_url == "https://services.leadconnectorhq.com/oauth/token"
    assert highlevel.auth_url == "https://marketplace.gohighlevel.com/v2/oauth/chooselocation"
    assert highlevel.client_secret.reveal() == "EXAMPLE-SECRET"


def test_highlevels_address_alone_means_no_app_and_private_tokens_only() -> None:
    highlevel = Settings.load(
        {"HIGHLEVEL_API_URL": "https://services.leadconnectorhq.com"}
    ).highlevel
    assert (highlevel.is_sandbox, highlevel.has_app) == (False, False)
    assert highlevel.client_secret.reveal() == ""
    assert Settings.load({"HIGHLEVEL_API_URL": "http://127.0.0.1:1"}).highlevel.is_sandbox
    assert Settings.load(REAL).highlevel.has_app


def test_the_version_of_the_app_comes_from_its_setting_its_install_link_or_the_client_id() -> None:
    link = (
        "https://marketplace.example.test/oauth/chooselocation?client_id=x&version_id=of-the-link"
    )
    given = REAL | {"HIGHLEVEL_CLIENT_ID": "65f0c0ffee-suffix"}
    assert Settings.load(given).highlevel.app_version_id == "65f0c0ffee"
    given |= {"HIGHLEVEL_AUTH_URL": link}
    assert Settings.load(given).highlevel.app_version_id == "of-the-link"
    given |= {"HIGHLEVEL_APP_VERSION_ID": "of-the-setting"}
    assert Settings.load(given).highlevel.app_version_id == "of-the-setting"
    assert Settings.load({}).highlevel.app_version_id == SANDBOX_APP_VERSION_ID


def test_the_sandbox_may_listen_elsewhere() -> None:
    assert Settings.load({"VOICEAI_SANDBOX_PORT": "9000"}).highlevel.token_url == (
        "http://127.0.0.1:9000/oauth/token"
    )


@pytest.mark.parametrize("url", ["http://localhost:1/x/", "http://127.0.0.1:1/x", "http://[::1]/x"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    highlevel = Settings.load(REAL | {"HIGHLEVEL_API_URL": url}).highlevel
    assert highlevel.api_url == url.rstrip("/")


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgres://u:p@db.example.test:5432/x?sslmode=require", "u:p@db.example.test:5432/x"),
        ("postgresql://u@h/x", "u@h/x"),
        ("postgresql+psycopg://u@h/x", "u@h/x"),
        ("postgresql+psycopg2://u@h/x", "u@h/x"),
        ("postgresql+asyncpg://u@h/x", "u@h/x"),
        (" postgres://u@h/x ", "u@h/x"),
    ],
)
def test_every_spelling_of_a_database_url_gets_the_right_driver(given: str, driver: str) -> None:
    settings = Settings.load({"VOICEAI_DATABASE_URL": given, "DAGSTER_POSTGRES_URL": given})
    assert settings.database_url is not None
    assert settings.dagster_url is not None
    assert settings.database_url.reveal().startswith(f"postgresql+psycopg://{driver}")
    assert settings.dagster_url.reveal().startswith(f"postgresql+psycopg2://{driver}")
    assert ("sslmode" in given) == settings.database_url.reveal().endswith("?sslmode=require")


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            {"VOICEAI_TIMEZONE": "Mars/Olympus"},
            "VOICEAI_TIMEZONE is 'Mars/Olympus'. Set it to an IANA name such as America/New_York.",
        ),
        (
            {"VOICEAI_TIMEZONE": "../../etc/passwd"},
            "VOICEAI_TIMEZONE is '../../etc/passwd'. Set it to an IANA name such as "
            "America/New_York.",
        ),
        (
            {"VOICEAI_TIMEZONE": "America"},
            "VOICEAI_TIMEZONE is 'America'. Set it to an IANA name such as America/New_York.",
        ),
        (
            {"HIGHLEVEL_CLIENT_ID": "app-1"},
            "HIGHLEVEL_CLIENT_ID is set but HIGHLEVEL_CLIENT_SECRET is not. Set both, or neither "
            "to use the sandbox.",
        ),
        (
            {"HIGHLEVEL_CLIENT_SECRET": "EXAMPLE-SECRET"},
            "HIGHLEVEL_CLIENT_SECRET is set but HIGHLEVEL_CLIENT_ID is not. Set both, or neither "
            "to use the sandbox.",
        ),
        (
            {"HIGHLEVEL_API_VERSION": "v2"},
            "HIGHLEVEL_API_VERSION is 'v2'. Set it to one of: dated, v3.",
        ),
        (
            {"VOICEAI_SANDBOX_PORT": "0"},
            "VOICEAI_SANDBOX_PORT is '0'. Set it to a port from 1 to 65535.",
        ),
        (
            {"VOICEAI_SANDBOX_PORT": "²"},
            "VOICEAI_SANDBOX_PORT is '²'. Set it to a port from 1 to 65535.",
        ),
        (
            {"VOICEAI_DATABASE_URL": "mysql://u:EXAMPLE-SECRET@h/x"},
            "VOICEAI_DATABASE_URL must be a PostgreSQL URL: postgresql://user@host:5432/name.",
        ),
        (
            {"DAGSTER_POSTGRES_URL": "u:EXAMPLE-SECRET@h"},
            "DAGSTER_POSTGRES_URL must be a PostgreSQL URL: postgresql://user@host:5432/name.",
        ),
    ],
)
def test_every_mistake_gets_a_sentence(env: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(env)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["HIGHLEVEL_AUTH_URL", "HIGHLEVEL_TOKEN_URL", "HIGHLEVEL_API_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "http://services.example.test",
        "http://127.0.0.1.example.test",
        "http://localhost.example.test/x",
        "http://127.0.0.1@example.test/",
        "http://localhost:80@example.test/",
        "ftp://127.0.0.1/",
        "services.example.test",
        "https://",
        "http://[::1",
    ],
)
def test_a_secret_never_travels_in_plain_text(name: str, url: str) -> None:
    for env in (REAL, {}):
        with pytest.raises(SettingsError) as caught:
            Settings.load(env | {name: url})
        assert str(caught.value) == (
            f"{name} must begin with https:// (plain http is allowed for loopback only)."
        )


def test_keys_are_read_in_their_order() -> None:
    keys = parse_keys(f" new:{KEY} , old:{OTHER},")
    assert list(keys.items()) == [("new", b"k" * 32), ("old", b"o" * 32)]
    assert parse_keys("") == {}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (KEY, 1),
        (f":{KEY}", 1),
        (f"two words:{KEY}", 1),
        (f"a:{KEY},a:{OTHER}", 2),
        (f"a:{KEY},b:CANARY", 2),
        ("a:" + base64.b64encode(b"CANARY").decode(), 1),
        ("a:CANARY…", 1),
        (f"a:{KEY}CANARY", 1),
        (f"a:{KEY[:-1]}", 1),
    ],
)
def test_a_key_that_cannot_be_used_is_never_repeated(text: str, number: int) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"VOICEAI_TOKEN_KEYS": text})
    shown = "".join(traceback.format_exception(caught.value))
    assert str(caught.value) == (
        f"VOICEAI_TOKEN_KEYS: entry {number} is not usable. Write id:key, where the id is a word "
        "used once and the key is 32 bytes in base64 (openssl rand -base64 32)."
    )
    assert KEY not in shown.replace(__file__, "")
    assert "CANARY" not in str(caught.value)


def test_the_settings_show_no_secret() -> None:
    env = REAL | {
        "VOICEAI_TOKEN_KEYS": f"a:{KEY}",
        "VOICEAI_DATABASE_URL": "postgresql://u:EXAMPLE-SECRET@h/x",
    }
    shown = repr(Settings.load(env))
    assert "EXAMPLE-SECRET" not in shown
    assert "kkkk" not in shown


# The Connections page and alerts ------------------------------------------------------------------

LONG = "a-secret-of-24-characters"


def test_the_page_listens_on_loopback_and_the_redirect_leads_to_it() -> None:
    settings = Settings.load({})
    page = settings.page
    assert (page.host, page.port, page.url) == ("127.0.0.1", 8791, "http://127.0.0.1:8791")
    assert page.dagster_url == "http://127.0.0.1:8791/dagster"
    assert page.secret is page.api_key is None
    assert page.allowed_origins == ()
    assert settings.highlevel.redirect_uri == "http://127.0.0.1:8791/oauth/callback"
    moved = Settings.load({"VOICEAI_PAGE_PORT": "9001"})
    assert moved.highlevel.redirect_uri == "http://127.0.0.1:9001/oauth/callback"
    public = Settings.load({"VOICEAI_PAGE_URL": "https://voice.example.test/"})
    assert public.highlevel.redirect_uri == "https://voice.example.test/oauth/callback"


def test_alerts_are_off_until_a_recipient_is_set() -> None:
    alerts = Settings.load({}).alerts
    assert alerts.webhook_url is alerts.smtp_url is None
    assert alerts.email_to == ()
    loaded = Settings.load(
        {
            "VOICEAI_ALERT_WEBHOOK_URL": "https://hooks.example.test/INVENTED",
            "VOICEAI_ALERT_EMAIL_TO": "ops@example.test, agency@example.test",
            "VOICEAI_ALERT_EMAIL_FROM": "voiceai@example.test",
            "VOICEAI_SMTP_URL": "smtp://me:INVENTED@mail.example.test:587",
        }
    ).alerts
    assert loaded.email_to == ("ops@example.test", "agency@example.test")
    assert "INVENTED" not in repr(loaded)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"VOICEAI_PAGE_PORT": "0"}, "VOICEAI_PAGE_PORT is '0'"),
        ({"VOICEAI_PAGE_SECRET": "short"}, "VOICEAI_PAGE_SECRET is too short"),
        ({"VOICEAI_API_KEY": "short"}, "VOICEAI_API_KEY is too short"),
        ({"VOICEAI_PAGE_URL": "voice.example.test"}, "VOICEAI_PAGE_URL is"),
        ({"VOICEAI_DAGSTER_URL": "http://[oops"}, "VOICEAI_DAGSTER_URL is"),
        ({"VOICEAI_ALLOWED_ORIGINS": "https://a.example.test/path"}, "is not an origin"),
        ({"VOICEAI_ALLOWED_ORIGINS": "*"}, "is not an origin"),
        ({"VOICEAI_JWKS_URL": "http://login.example.test/jwks.json"}, "must begin with https://"),
        ({"VOICEAI_ALERT_WEBHOOK_URL": "http://hooks.example.test/x"}, "must begin with https://"),
        ({"VOICEAI_ALERT_EMAIL_TO": "ops@example.test"}, "VOICEAI_SMTP_URL too"),
        ({"VOICEAI_SMTP_URL": "mail.example.test"}, "VOICEAI_SMTP_URL cannot be read"),
        ({"VOICEAI_SMTP_URL": "smtp://u:p@a/b@mail:x"}, "VOICEAI_SMTP_URL cannot be read"),
        ({"VOICEAI_PLAIN_TOKENS": "maybe"}, "VOICEAI_PLAIN_TOKENS is 'maybe'"),
    ],
)
def test_a_setting_of_the_page_or_of_alerts_that_cannot_be_used_is_named(
    env: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load(env)
    assert said in str(refused.value)


def test_days_and_zones_are_read_alone() -> None:
    assert timezone_of({"VOICEAI_TIMEZONE": " Europe/Berlin "}).key == "Europe/Berlin"
    assert start_date_of({"VOICEAI_START_DATE": "2026-02-28"}) == dt.date(2026, 2, 28)
    with pytest.raises(SettingsError) as caught:
        start_date_of({"VOICEAI_START_DATE": "28.02.2026"})
    assert str(caught.value) == "VOICEAI_START_DATE is '28.02.2026'. Write a day as YYYY-MM-DD."


def test_the_example_file_lists_every_variable_with_its_meaning() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    expected = [
        line for name, meaning in VARIABLES.items() for line in (f"# {meaning}", f"#{name}=")
    ]
    assert [line for line in lines if line] == expected


def test_every_variable_the_code_reads_is_listed() -> None:
    used: set[str] = set()
    for path in (ROOT / "voiceai_pipeline").rglob("*.py"):
        used |= set(re.findall(r"\"((?:HIGHLEVEL|VOICEAI)_[A-Z_]+)\"", path.read_text()))
    assert used - {"VOICEAI_READ_ONLY_PORT"} <= set(VARIABLES)  # obsolete, doctor says
    assert {name for name in VARIABLES if name != "DAGSTER_POSTGRES_URL"} <= used


def test_reading_the_settings_needs_nothing_else(tmp_path: Path) -> None:
    """No file is written, nothing is connected, and Dagster is not imported for it."""
    code = (
        "import sys; from voiceai_pipeline.core.settings import Settings; Settings.load({}); "
        "print([m for m in ('dagster', 'sqlalchemy', 'requests') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_what_counts_is_configured_and_what_cannot_be_read_is_refused() -> None:
    given = {
        "VOICEAI_ENGAGED_TURNS": "3",
        "VOICEAI_ENGAGED_SECONDS": "15",
        "VOICEAI_GOAL_ACTIONS": "SMS, APPOINTMENT_BOOKING",
        "VOICEAI_COST_PER_MINUTE": "0.13",
        "VOICEAI_FOLLOW_UP_ACTIONS": "WORKFLOW_TRIGGER",
    }
    rules = MetricRules(
        3, 15, ("APPOINTMENT_BOOKING", "SMS"), Decimal("0.13"), ("WORKFLOW_TRIGGER",)
    )
    assert Settings.load(given).metrics == rules
    assert Settings.load({}).metrics == MetricRules()
    for name, wrong in (
        ("VOICEAI_ENGAGED_TURNS", "-1"),
        ("VOICEAI_ENGAGED_SECONDS", "ten"),
        ("VOICEAI_GOAL_ACTIONS", "book it"),
        ("VOICEAI_FOLLOW_UP_ACTIONS", "sms"),
        ("VOICEAI_COST_PER_MINUTE", "1,5"),
    ):
        with pytest.raises(SettingsError, match=name):
            Settings.load({name: wrong})


@pytest.mark.parametrize("key", ["x", "AAAA", "é", "MCowBQYDK2VwAyEA8X2XiLGuDZ75=="])
def test_a_webhook_key_that_is_none_is_refused_with_where_to_find_it(key: str) -> None:
    with pytest.raises(SettingsError, match=r"HIGHLEVEL_WEBHOOK_KEYS: entry 2 .* webhook guide"):
        Settings.load(REAL | {"HIGHLEVEL_WEBHOOK_KEYS": f"{SANDBOX_WEBHOOK_KEY},{key}"})


def test_several_webhook_keys_count_during_a_rotation() -> None:
    keys = {"HIGHLEVEL_WEBHOOK_KEYS": f"{SANDBOX_WEBHOOK_KEY}, {KEY}"}

    assert Settings.load(REAL | keys).highlevel.webhook_keys[1:] == (b"k" * 32,)
