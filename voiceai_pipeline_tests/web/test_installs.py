"""A location of a connected agency installed the app: offered to an operator, and never connected
because of a message alone."""

import html
import re
from dataclasses import replace

import pytest

from voiceai_pipeline.sandbox.webhooks import message
from voiceai_pipeline.sandbox.world import World
from voiceai_pipeline_tests.support.installation import (
    AGENCY,
    HARBOR,
    Installation,
    Open,
    agency_world,
)
from voiceai_pipeline_tests.support.visitor import PASSWORD
from voiceai_pipeline_tests.support.webhook_posts import post

MOTORS, VANS = agency_world().locations.values()
ANALYST = "look and touch nothing"
ODD = "<b>Vans</b> & **more**"


@pytest.fixture
def world() -> World:
    """An agency with two locations."""
    return World(locations=(MOTORS, replace(VANS, name=ODD)))


def connected_agency(installation: Installation) -> Installation:
    """With one of its locations; Harbor Dental has no connection."""
    installation.add("Northwind Agency", "Harbor Dental")
    with installation.visitor() as visitor:
        visitor.log_in() if installation.site.page.secret else None
        visitor.connect(AGENCY, MOTORS.company_id)
        visitor.post(f"/users/{AGENCY}/location", {"location_id": MOTORS.id})
    assert installation.connection(AGENCY).location_id == MOTORS.id
    return installation


@pytest.fixture
def agency(installation: Installation) -> Installation:
    return connected_agency(installation)


def tell(installation: Installation, kind: str = "INSTALL", **fields: str) -> None:
    about = {"locationId": VANS.id, "companyId": MOTORS.company_id, "companyName": ODD}
    assert post(installation.url, message(kind, 0, **{**about, **fields})).ok


def is_offered(installation: Installation) -> bool:
    with installation.visitor() as visitor:
        return f"/installs/{VANS.id}" in visitor.get("/").text


def test_an_announced_install_is_offered_and_connects_only_whom_an_operator_chooses(
    agency: Installation,
) -> None:
    tell(agency)
    tell(agency)  # twice, as HighLevel does
    with agency.visitor() as visitor:
        listed = visitor.get("/").text
        offer = visitor.get(f"/installs/{VANS.id}").text
        assert agency.connection(HARBOR).label == "never connected"
        assert visitor.post(f"/installs/{VANS.id}").status_code == 422
        leaving = visitor.post(f"/installs/{VANS.id}", {"user_id": str(HARBOR)}, follow=False)
        goal = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', leaving.text)
        assert goal is not None
        back = visitor.get(visitor.allow(html.unescape(goal[1])))

    assert listed.count(f'href="/installs/{VANS.id}"') == 1
    assert html.escape(f"Whose location is {ODD}?") in offer
    assert "<b>Vans" not in offer
    assert "Harbor Dental is connected" in back.text
    assert agency.connection(HARBOR).location_id == VANS.id
    assert agency.connection(AGENCY).location_id == MOTORS.id
    assert not is_offered(agency)


def test_only_what_highlevel_signed_about_a_connected_agency_is_offered(
    agency: Installation,
) -> None:
    body = message("INSTALL", 0, locationId=VANS.id, companyId=MOTORS.company_id)
    assert post(agency.url, body, signed=False).status_code == 401
    assert post(agency.url, body | {"appId": "65f0c0ffee0000000000beef"}).ok
    tell(agency, companyId="CoOfAnotherAgency")
    tell(agency, locationId=MOTORS.id)  # has a user
    with agency.visitor() as visitor:
        assert "installed the app" not in visitor.get("/").text
        assert visitor.get(f"/installs/{VANS.id}").status_code == 404
        refused = visitor.post(f"/installs/{VANS.id}", {"user_id": str(HARBOR)})
    assert refused.status_code == 404
    assert agency.connection(HARBOR).label == "never connected"


def test_an_offer_ends_with_a_removal_or_when_an_operator_declines_it(
    agency: Installation,
) -> None:
    tell(agency)
    assert is_offered(agency)
    tell(agency, "UNINSTALL")
    assert not is_offered(agency)
    tell(agency)
    assert is_offered(agency)
    with agency.visitor() as visitor:
        visitor.post(f"/installs/{VANS.id}/ignore")
    assert not is_offered(agency)
    tell(agency)
    assert is_offered(agency)


def test_analysts_and_strangers_are_offered_nothing(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD, VOICEAI_ANALYST_SECRET=ANALYST) as page:
        connected_agency(page)
        tell(page)
        with page.visitor() as stranger, page.visitor() as analyst:
            analyst.log_in(ANALYST)
            assert "/login" in stranger.get(f"/installs/{VANS.id}").url
            assert "/installs/" not in analyst.get("/").text
            assert analyst.get(f"/installs/{VANS.id}").status_code == 403
