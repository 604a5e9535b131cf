"""Connect, the callback, and the choice of an agency's location."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.connection import REQUESTED_SCOPES
from voiceai_pipeline.sandbox.cast import SANDBOX_APP_VERSION_ID, SANDBOX_CLIENT_ID
from voiceai_pipeline.sandbox.faults import Fault
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline.web import cookies
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.installation import (
    AGENCY,
    CEDAR,
    HARBOR,
    Installation,
    Open,
    agency_world,
)
from voiceai_pipeline_tests.support.visitor import PASSWORD, unsigned, with_query

# To HighLevel and back ---------------------------------------------------------------------------


def test_connect_leads_to_highlevels_page_with_everything_it_needs(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        url = visitor.begin(HARBOR)

    assert url.startswith(f"{installation.sandbox.url}/v2/oauth/chooselocation?")
    query = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
    assert len(query.pop("state")) >= 32
    assert query == {
        "response_type": "code",
        "client_id": SANDBOX_CLIENT_ID,
        "version_id": SANDBOX_APP_VERSION_ID,
        "redirect_uri": f"{installation.url}/oauth/callback",
        "scope": " ".join(REQUESTED_SCOPES),
        "user": str(HARBOR),  # the sandbox has the right location chosen
    }


def test_the_page_that_leads_to_highlevel_names_the_user_and_has_a_link(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        leaving = visitor.post(f"/users/{HARBOR}/connect", follow=False)

    assert leaving.status_code == 200
    assert "Redirecting to HighLevel to connect Harbor Dental" in leaving.text
    goal = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', leaving.text)
    assert goal is not None
    assert f'href="{goal[1]}" autofocus' in leaving.text
    assert "noAppVersionIdFound" in leaving.text
    assert "HIGHLEVEL_APP_VERSION_ID" in leaving.text


def test_our_user_id_is_sent_to_the_sandbox_only(
    open_page: Open,
) -> None:
    with open_page(
        HIGHLEVEL_CLIENT_ID=SANDBOX_CLIENT_ID, HIGHLEVEL_CLIENT_SECRET="not checked here"
    ) as installation:
        installation.add("Harbor Dental")
        with installation.visitor() as visitor:
            assert "user" not in parse_qs(urlsplit(visitor.begin(HARBOR)).query)


def test_the_callback_connects_the_user_and_returns_to_the_page(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        callback = visitor.allow(visitor.begin(HARBOR, back="/?q=harbor"))
        finished = visitor.get(callback, follow=False)
        kept = unsigned(finished.cookies[cookies.FLASH])
        back = visitor.get(finished.headers["Location"])

    assert back.url == f"{installation.url}/?q=harbor"  # without the code
    assert "Harbor Dental is connected" in back.text
    assert "is connected" in kept
    assert "Harbor" not in kept
    assert installation.connection(HARBOR).label == "connected"
    assert "consent" not in " ".join(visitor.session.cookies.keys())


def test_a_consent_without_a_required_scope_is_not_a_success(installation: Installation) -> None:
    installation.add("Cedar Vets")
    with installation.visitor() as visitor:
        back = visitor.connect(CEDAR)

    assert "Cedar Vets: consent given, action needed" in back.text
    assert "The connection lacks a scope (voice-ai-dashboard.readonly)" in back.text


def test_two_consents_can_be_in_progress_in_one_browser(installation: Installation) -> None:
    installation.add("Harbor Dental", "Cedar Vets")
    with installation.visitor() as visitor:
        first, second = visitor.begin(HARBOR), visitor.begin(CEDAR)
        visitor.get(visitor.allow(second))
        back = visitor.get(visitor.allow(first))

    assert "Harbor Dental is connected" in back.text


# Callbacks that are refused ----------------------------------------------------------------------


def test_an_incomplete_callback_is_a_page_that_says_what_is_missing(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    wrong: list[tuple[dict[str, str | None], str]] = [
        ({"state": "unknown"}, "is not ours"),
        ({"code": None}, "came back without a code"),
        ({"code": None, "error": "access_denied"}, "was refused in the browser"),
    ]
    with installation.visitor() as visitor:
        callback = visitor.allow(visitor.begin(HARBOR))
        for changed, said in wrong:
            refused = visitor.get(with_query(callback, **changed))
            assert refused.status_code == 400
            assert said in refused.text
            assert "Nothing was changed" in refused.text
            assert "Press Connect in the list" in refused.text
            assert "SANDBOX-CODE" not in refused.text
        assert installation.connection(HARBOR).label == "never connected"
        right = visitor.get(callback)

    assert "Harbor Dental is connected" in right.text  # the state was not used up


def test_a_callback_asked_for_again_says_how_the_first_one_ended_and_spends_nothing(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Cedar Vets")
    with installation.visitor() as visitor:
        callback = visitor.allow(visitor.begin(HARBOR))
        with ThreadPoolExecutor(2) as browsers:  # one that sends it twice at once
            answers = list(browsers.map(visitor.get, [callback, callback]))
        answers.append(visitor.get(callback))
        lacking = visitor.allow(visitor.begin(CEDAR))
        visitor.get(lacking)
        failed = visitor.get(lacking)

    for again in answers:
        assert again.status_code == 200
        assert "Harbor Dental is connected" in again.text
    assert "This consent was finished already" in answers[-1].text
    assert failed.status_code == 409
    assert "ended so: The connection lacks a scope" in failed.text
    assert installation.exchanges == 2


def test_a_prefetched_callback_spends_nothing(installation: Installation) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        callback = visitor.allow(visitor.begin(HARBOR))
        assert visitor.session.head(callback, timeout=60).status_code == 200
        for header in ({"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}):
            prefetched = visitor.session.get(callback, headers=header, timeout=60)
            assert prefetched.status_code == 503
        assert installation.exchanges == 0
        right = visitor.get(callback)

    assert "Harbor Dental is connected" in right.text


def test_a_consent_that_took_too_long_is_refused(installation: Installation) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        callback = visitor.allow(visitor.begin(HARBOR))
        with installation.pipeline.engine.begin() as db:
            db.execute(
                sa.text("UPDATE connect_requests SET expires_at = expires_at - :half_an_hour"),
                {"half_an_hour": timedelta(minutes=31)},
            )
        late = visitor.get(callback)

    assert late.status_code == 400
    assert "took longer than 30 minutes" in late.text


def test_another_browser_cannot_finish_a_consent(installation: Installation) -> None:
    """Otherwise an attacker could connect their own HighLevel account to a user."""
    installation.add("Harbor Dental")
    with installation.visitor() as mine, installation.visitor() as other:
        callback = mine.allow(mine.begin(HARBOR))
        stolen = other.get(callback)
        assert installation.connection(HARBOR).label == "never connected"
        right = mine.get(callback)

    assert stolen.status_code == 400
    assert "started in another browser" in stolen.text
    assert "Harbor Dental" not in stolen.text
    assert "Harbor Dental is connected" in right.text


def test_a_consent_started_on_the_command_line_is_finished_by_the_page(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    started = installation.pipeline.consent.begin(HARBOR)
    with installation.visitor() as visitor:
        back = visitor.get(visitor.allow(f"{started.url}&user={HARBOR}"))

    assert "Harbor Dental is connected" in back.text
    assert installation.pipeline.consent.outcome(started.state) == "connected"


def test_a_rejected_code_is_a_page_that_names_the_affected_user(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        callback = visitor.allow(visitor.begin(HARBOR))
        refused = visitor.get(with_query(callback, code="SANDBOX-CODE.wrong"))

    assert refused.status_code == 400
    assert "HighLevel refused the code" in refused.text
    assert "Nothing was changed" in refused.text
    assert "Only Harbor Dental is affected." in refused.text
    assert "SANDBOX-CODE" not in refused.text


def test_an_unavailable_highlevel_is_a_page_that_names_the_affected_user(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        callback = visitor.allow(visitor.begin(HARBOR))
        installation.sandbox.world.add_fault(Fault("server_error", "*", path="/oauth", status=503))
        refused = visitor.get(callback)

    assert refused.status_code == 502
    assert "The connection failed" in refused.text
    assert "HighLevel answered with a server error" in refused.text
    assert "Only Harbor Dental is affected." in refused.text


def test_with_a_password_the_callback_works_without_login_and_shows_no_name(
    open_page: Open,
) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        installation.add("Harbor Dental")
        started = installation.pipeline.consent.begin(HARBOR)
        with installation.visitor() as visitor:
            back = visitor.get(visitor.allow(f"{started.url}&user={HARBOR}"))
        connected = installation.connection(HARBOR).label

    assert connected == "connected"
    assert "You can close this page." in back.text
    assert "Harbor" not in back.text


# A private integration token ---------------------------------------------------------------------


def test_a_private_token_is_entered_tested_and_never_shown(installation: Installation) -> None:
    installation.add("Harbor Dental")
    location = DEMO["Harbor Dental"].installs_on
    token = installation.sandbox.world.private_tokens.of(location)
    path = f"/users/{HARBOR}/private-token"
    with installation.visitor() as visitor:
        assert f'href="{path}"' in visitor.get(f"/users/{HARBOR}").text
        form = visitor.get(path)
        unusable = visitor.post(path, {"token": "pit-", "location_id": location})
        elsewhere = visitor.post(path, {"token": token, "location_id": "LocSomewhereElse"})
        connected = visitor.post(path, {"token": token, "location_id": location})

    assert 'type="password"' in form.text
    assert unusable.status_code == 422
    assert "not a private integration token" in unusable.text
    assert elsewhere.status_code == 409
    assert "The private integration token is not for this location" in elsewhere.text
    assert "Nothing was changed" in elsewhere.text
    assert "Harbor Dental is connected" in connected.text
    assert "HighLevel advises a new one every 90 days" in connected.text
    assert token not in unusable.text + elsewhere.text + connected.text


# An agency's location ----------------------------------------------------------------------------


@pytest.fixture
def agency(installation: Installation) -> Installation:
    installation.add("Northwind Agency")
    return installation


class TestAnAgency:
    """With two locations, one of which is the user's."""

    @pytest.fixture
    def world(self) -> World:
        return agency_world()

    def test_one_of_several_locations_is_chosen_on_the_page(self, agency: Installation) -> None:
        with agency.visitor() as visitor:
            offered = visitor.connect(AGENCY)
            locations = re.findall(r'name="location_id" value="([^"]+)"', offered.text)
            none = visitor.post(f"/users/{AGENCY}/location")
            wrong = visitor.post(f"/users/{AGENCY}/location", {"location_id": "LocElsewhere"})
            chosen = visitor.post(f"/users/{AGENCY}/location", {"location_id": locations[1]})

        assert offered.url == f"{agency.url}/users/{AGENCY}/location"
        assert "Choose the location of Northwind Agency" in offered.text
        assert len(locations) == 2
        assert none.status_code == wrong.status_code == 422
        assert "Choose a location first." in none.text
        assert "The agency does not have this location." in wrong.text
        assert "Northwind Agency is connected" in chosen.text
        assert agency.connection(AGENCY).location_id == locations[1]

    def test_the_list_offers_the_choice_until_it_is_made(self, agency: Installation) -> None:
        with agency.visitor() as visitor:
            visitor.connect(AGENCY)
            html = visitor.get().text

        assert "needs reconnection: no location" in html
        assert f'href="/users/{AGENCY}/location" aria-label="Choose location: Northwind' in html


def test_a_user_without_agency_has_no_locations_to_choose_from(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        answer = visitor.get(f"/users/{HARBOR}/location")

    assert answer.status_code == 409
    assert "The agency&#39;s locations cannot be listed" in answer.text
