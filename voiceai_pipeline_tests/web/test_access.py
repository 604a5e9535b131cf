"""Login, sessions and forged forms."""

import json

import requests

from voiceai_pipeline.web import cookies
from voiceai_pipeline.web.access import MAX_BODY
from voiceai_pipeline.web.throttle import LIMIT
from voiceai_pipeline_tests.support.installation import HARBOR, Installation, Open
from voiceai_pipeline_tests.support.visitor import PASSWORD, unsigned

# Forged forms ------------------------------------------------------------------------------------


def test_only_a_form_of_the_same_session_is_accepted(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    path = f"/users/{HARBOR}/disconnect"
    with installation.visitor() as visitor, installation.visitor() as other:
        forged = [
            visitor.post(path, token=""),
            visitor.post(path, token="made up"),
            visitor.post(path, token=other.token()),
        ]
        without_cookies = other.session.post(
            installation.url + path, data={"form_token": visitor.token()}, timeout=60
        )

    for answer in (*forged, without_cookies):
        assert answer.status_code == 403
        assert "reload it and try again" in answer.text
        assert "Nothing was changed." in answer.text
    assert installation.connection(HARBOR).label == "connected"


def test_a_form_from_another_website_is_refused_even_with_the_token(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    path = f"/users/{HARBOR}/connect"
    with installation.visitor() as visitor:
        for headers in (
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"Origin": "https://evil.test"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
        ):
            assert visitor.post(path, follow=False, **headers).status_code == 403
        accepted = visitor.post(
            path, follow=False, Origin=installation.url, Sec_Fetch_Site="same-origin"
        )

    assert accepted.status_code == 200


def test_a_form_from_the_public_address_is_accepted(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_URL="https://calls.example.test") as installation:
        installation.add("Harbor Dental")
        with installation.visitor() as visitor:
            # The cookie is for HTTPS only, and this test has no proxy that speaks it.
            session = visitor.get().cookies.get_dict()
            visitor.session.headers["Cookie"] = f"{cookies.SESSION}={session[cookies.SESSION]}"
            accepted = visitor.post(
                f"/users/{HARBOR}/connect", follow=False, Origin="https://calls.example.test"
            )

    assert accepted.status_code == 200
    assert "; Secure" in accepted.headers["set-cookie"]


def test_a_body_that_is_too_long_or_not_a_form_is_refused(installation: Installation) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        long = visitor.post(f"/users/{HARBOR}/connect", {"x": "y" * MAX_BODY})
        binary = visitor.session.post(
            f"{installation.url}/users/{HARBOR}/connect", data=b"\xff\xfe", timeout=60
        )

    assert long.status_code == 413
    assert binary.status_code == 403


# Login -------------------------------------------------------------------------------------------


def test_without_a_password_on_loopback_no_login_is_needed(installation: Installation) -> None:
    with installation.visitor() as visitor:
        assert visitor.get("/").status_code == 200
        assert visitor.get("/login", follow=False).headers["Location"] == "/"
        assert "Log out" not in visitor.get("/").text


def test_with_a_password_nothing_is_shown_or_done_before_login(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        installation.add("Harbor Dental")
        with installation.visitor() as visitor:
            for path in ("/", f"/users/{HARBOR}", "/nothing", f"/users/{HARBOR}/location"):
                answer = visitor.get(path, follow=False)
                assert answer.status_code == 303
                assert answer.headers["Location"].startswith("/login")
                assert "Harbor" not in answer.text
            pressed = visitor.post(
                f"/users/{HARBOR}/connect", token=visitor.token("/login"), follow=False
            )
            assert pressed.headers["Location"] == "/login"
            assert visitor.get("/health").json() == {"service": "voiceai-pipeline connections"}
            assert visitor.get("/static/page.css").status_code == 200


def test_login_leads_to_the_requested_page_and_lasts_until_logout(
    open_page: Open,
) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        installation.add("Harbor Dental")
        with installation.visitor() as visitor:
            asked = visitor.get("/?q=harbor")
            assert asked.url.endswith("/login?next=%2F%3Fq%3Dharbor")
            assert 'name="next" value="/?q=harbor"' in asked.text
            before = visitor.session.cookies[cookies.SESSION]
            entered = visitor.log_in(next="/?q=harbor")
            inside = visitor.session.cookies[cookies.SESSION]
            assert "Harbor Dental" in visitor.get("/?q=harbor").text

            left = visitor.post("/logout")
            after = visitor.get("/", follow=False)
    assert entered.headers["Location"] == "/?q=harbor"
    # A new id: the old one is of no use to anyone who knew it (session fixation).
    assert json.loads(unsigned(before))["id"] != json.loads(unsigned(inside))["id"]
    assert "You have been logged out." in left.text
    assert after.status_code == 303


def test_a_copied_cookie_does_not_work_after_logout_nor_after_a_restart(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        with installation.visitor() as visitor, installation.visitor() as other:
            visitor.log_in()
            other.log_in()
            copied, kept = (v.session.cookies[cookies.SESSION] for v in (visitor, other))
            visitor.post("/logout")
        before = _enters(installation, copied), _enters(installation, kept)
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        after = _enters(installation, copied), _enters(installation, kept)

    assert before == after == (False, True)


def _enters(installation: Installation, cookie: str) -> bool:
    headers = {"Cookie": f"{cookies.SESSION}={cookie}"}
    answer = requests.get(installation.url, headers=headers, allow_redirects=False, timeout=60)
    return answer.status_code == 200


def test_the_session_cookie_has_every_protective_attribute(open_page: Open) -> None:
    with (
        open_page(
            VOICEAI_PAGE_SECRET=PASSWORD, VOICEAI_PAGE_URL="https://calls.example.test"
        ) as installation,
        installation.visitor() as visitor,
    ):
        set_cookie = visitor.get("/login").headers["set-cookie"]
    for attribute in ("HttpOnly", "SameSite=lax", "Secure", "Path=/", "Max-Age=43200"):
        assert attribute in set_cookie


def test_login_never_redirects_to_another_site(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        for target in ("https://evil.test", "//evil.test", "/\\evil.test"):
            with installation.visitor() as visitor:
                assert visitor.log_in(next=target).headers["Location"] == "/"


def test_after_five_wrong_passwords_none_is_checked_for_a_while(
    open_page: Open,
) -> None:
    with (
        open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation,
        installation.visitor() as inside,
        installation.visitor() as outside,
    ):
        inside.log_in()
        wrong = [outside.log_in("guess") for _ in range(LIMIT)]
        too_many = outside.log_in("guess")
        right = outside.log_in(PASSWORD)
        working = inside.get("/")

    assert {answer.status_code for answer in wrong} == {401}
    assert "Wrong password." in wrong[0].text
    assert too_many.status_code == right.status_code == 429
    assert 0 < int(right.headers["Retry-After"]) <= 60
    assert working.status_code == 200


def test_a_login_form_of_another_session_is_refused(open_page: Open) -> None:
    with (
        open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation,
        installation.visitor() as mine,
        installation.visitor() as other,
    ):
        refused = mine.post(
            "/login", {"password": PASSWORD}, token=other.token("/login"), follow=False
        )

    assert refused.status_code == 403
