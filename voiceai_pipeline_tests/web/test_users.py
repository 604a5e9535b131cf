"""A user's own page, and a user's buttons."""

import re

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline_tests.support.installation import CEDAR, HARBOR, Installation
from voiceai_pipeline_tests.support.listed_users import row

# Adding ------------------------------------------------------------------------------------------


def test_an_operator_adds_a_user_and_is_led_to_connect_it(installation: Installation) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        added = visitor.post("/users", {"name": "  Oak & Elm <b> "})
        twice = visitor.post("/users", {"name": "oak & elm <b>"})
        empty = visitor.post("/users", {"name": " "})

    assert "Oak &amp; Elm &lt;b&gt; was added" in added.text
    assert "/users/" in added.url
    assert "Connect" in added.text
    assert "already" in twice.text
    assert "Enter a name" in empty.text
    with installation.pipeline.engine.begin() as db:
        assert sorted(one.user.name for one in connections.all_connections(db)) == [
            "Harbor Dental",
            "Oak & Elm <b>",
        ]


# A user's own page -------------------------------------------------------------------------------


def test_a_users_page_answers_why_it_no_longer_works(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    installation.sandbox.world.revoke("LocHarborDental000001")
    with installation.visitor() as visitor:
        tested = visitor.post(f"/users/{HARBOR}/test", {"back": f"/users/{HARBOR}"})

    assert tested.url.endswith(f"/users/{HARBOR}")
    assert "Harbor Dental: connection test failed" in tested.text
    assert "needs reconnection: revoked" in tested.text
    assert "Re-authorize the OAuth connection with the button here." in tested.text
    events = re.findall(r"<td role=\"cell\"><span>([A-Z][^<]+)</span>", tested.text)
    assert events[-1] == "Connected by consent in the browser"
    assert any("Token refresh failed" in event for event in events)
    assert "connections page" in tested.text
    assert re.search(
        r"voice-ai-dashboard\.readonly</code> <span class=\"tag good\">granted", tested.text
    )


def test_a_missing_scope_is_named_on_the_users_page(installation: Installation) -> None:
    installation.add("Cedar Vets")
    installation.connect(CEDAR)
    with installation.visitor() as visitor:
        html = visitor.get(f"/users/{CEDAR}").text

    assert re.search(r"voice-ai-dashboard\.readonly</code> <span class=\"tag bad\">missing", html)


# Buttons -----------------------------------------------------------------------------------------


def test_a_passed_test_is_shown_once(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        tested = visitor.post(f"/users/{HARBOR}/test", {"back": "/?q=harbor"})
        again = visitor.get("/?q=harbor")

    assert tested.url.endswith("/?q=harbor")
    assert "Harbor Dental: connection test passed" in tested.text
    assert "connection test passed" not in again.text


def test_disconnect_asks_first_and_keeps_the_user(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        asked = visitor.get(f"/users/{HARBOR}/disconnect?back=/")
        assert installation.connection(HARBOR).label == "connected"
        done = visitor.post(f"/users/{HARBOR}/disconnect", {"back": "/"})

    assert "Disconnect Harbor Dental?" in asked.text
    assert "Harbor Dental is disconnected" in done.text
    assert "disconnected" in row(done.text, "Harbor Dental")
    assert installation.connection(HARBOR).token_expires_at is None


def test_an_action_never_redirects_to_another_site(installation: Installation) -> None:
    installation.add("Harbor Dental")
    elsewhere = (
        "https://evil.test/",
        "//evil.test/",
        "/\\evil.test",
        "/oauth/callback?code=1",
        "/?q=x\r\nSet-Cookie: a=b",
        "x",
    )
    with installation.visitor() as visitor:
        for back in elsewhere:
            pressed = visitor.post(f"/users/{HARBOR}/sync", {"back": back}, follow=False)
            assert pressed.headers["Location"] == "/"
            assert "a" not in pressed.cookies
