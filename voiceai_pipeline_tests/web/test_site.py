"""The addresses of the page, of its callback and of Dagster."""

import re

import sqlalchemy as sa

from voiceai_pipeline_tests.support.installation import HARBOR, Installation, Open


def test_localhost_is_redirected_to_the_host_of_the_redirect_uri(
    installation: Installation,
) -> None:
    """To a browser they are two sites with separate cookies."""
    host = installation.url.removeprefix("http://").replace("127.0.0.1", "localhost")
    with installation.visitor(Host=host) as visitor:
        answer = visitor.get("/?q=harbor", follow=False)

    assert answer.status_code == 307
    assert answer.headers["Location"] == f"{installation.url}/?q=harbor"


def test_behind_a_proxy_no_host_is_redirected(open_page: Open) -> None:
    with (
        open_page(VOICEAI_PAGE_URL="https://calls.example.test") as installation,
        installation.visitor() as visitor,
    ):
        assert visitor.get("/", follow=False).status_code == 200


def test_a_redirect_uri_of_another_site_is_an_error_before_the_consent_starts(
    open_page: Open,
) -> None:
    elsewhere = "https://dashboard.example.test/oauth/callback"
    with (
        open_page(HIGHLEVEL_REDIRECT_URI=elsewhere) as installation,
        installation.visitor() as visitor,
    ):
        installation.add("Harbor Dental")
        answer = visitor.post(f"/users/{HARBOR}/connect", follow=False)

    assert answer.status_code == 409
    assert f"HIGHLEVEL_REDIRECT_URI is {elsewhere}" in answer.text


def test_links_lead_to_dagsters_public_address(open_page: Open) -> None:
    with (
        open_page(VOICEAI_DAGSTER_URL="https://dagster.example.test") as installation,
        installation.visitor() as visitor,
    ):
        html = visitor.get().text

    assert 'href="https://dagster.example.test/assets/call_logs?view=partitions"' in html


def test_a_name_reverses_no_direction_and_has_no_control_characters_on_any_page(
    installation: Installation,
) -> None:
    name = "\u202egnp.exe\u2066 <b>\x1b[31mred\u200b\u2060\x9b</b>"
    installation.add("Harbor Dental")
    with installation.pipeline.engine.begin() as db:
        db.execute(sa.text("UPDATE users SET business_name = :name"), {"name": name})
    with installation.visitor() as visitor:
        pages = [visitor.get(path).text for path in ("/", f"/users/{HARBOR}", "/calls")]
    for page in pages:
        assert "gnp.exe &lt;b&gt;[31mred&lt;/b&gt;" in page
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2069]", page)
