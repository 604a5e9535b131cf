"""Consents that began in HighLevel's marketplace: kept, and assigned by a logged-in operator."""

import re
from urllib.parse import urlsplit

import sqlalchemy as sa

from voiceai_pipeline.connections.consent_requests import MOST_HELD, MOST_OF_ADDRESS
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.web.user_list import HELD_SHOWN
from voiceai_pipeline_tests.support.installation import HARBOR, MAPLE, Installation, Open
from voiceai_pipeline_tests.support.visitor import PASSWORD, Visitor, with_query


def marketplace_callback(visitor: Visitor, installation: Installation, target: str = "") -> str:
    """What HighLevel redirects to if the consent began there: no state."""
    link = with_query(installation.pipeline.consent.begin(HARBOR).url, state=None)
    return visitor.allow(f"{link}&user={HARBOR}", target)


def test_a_consent_that_began_in_the_marketplace_is_connected_to_whom_the_operator_says(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental", "Maple Plumbing")
    with installation.visitor() as visitor:
        callback = marketplace_callback(visitor, installation)
        assert "state=" not in callback
        asked = visitor.get(callback)
        assert "Whose consent is this?" in asked.text
        assert f'value="{HARBOR}"' in asked.text
        assert "SANDBOX-CODE" not in asked.url + asked.text
        assert installation.exchanges == 0
        assert "A consent from HighLevel is waiting" in visitor.get("/").text
        path = urlsplit(asked.url).path
        assert visitor.post(path).status_code == 422
        connected = visitor.post(path, {"user_id": str(HARBOR)})
        assert "A consent from HighLevel is waiting" not in visitor.get("/").text
        again = visitor.get(callback)

    assert "Harbor Dental is connected" in connected.text
    assert installation.connection(HARBOR).label == "connected"
    assert installation.connection(MAPLE).label == "never connected"
    assert "This consent was finished already" in again.text
    assert installation.exchanges == 1
    with installation.pipeline.engine.begin() as db:
        kept = db.execute(sa.text("SELECT code FROM connect_requests WHERE used_at IS NOT NULL"))
        assert set(kept.scalars()) == {None}


def test_a_stranger_hands_a_consent_from_the_marketplace_to_an_operator_and_sees_no_names(
    open_page: Open,
) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        installation.add("Harbor Dental")
        with installation.visitor() as customer:
            received = customer.get(marketplace_callback(customer, installation))
        assert received.status_code == 200
        assert "an operator of this installation has to say whose it is" in received.text
        assert "Harbor" not in received.text
        found = re.search(r"/login\?next=(/consents/[0-9a-f]{64})", received.text)
        assert found is not None
        with installation.visitor() as operator:
            assert operator.get(found[1]).url.startswith(f"{installation.url}/login?next=")
            assert operator.log_in(next=found[1]).headers["Location"] == found[1]
            token = operator.token(found[1])
            operator.post(found[1], {"user_id": str(HARBOR)}, token=token)
        assert installation.connection(HARBOR).label == "connected"


def test_a_consent_from_the_marketplace_waits_ten_minutes(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    with installation.visitor() as visitor:
        path = urlsplit(visitor.get(marketplace_callback(visitor, installation)).url).path
        with installation.pipeline.engine.begin() as db:
            db.execute(sa.text("UPDATE connect_requests SET expires_at = now()"))
        late = visitor.post(path, {"user_id": str(HARBOR)})

    assert late.status_code == 400
    assert "has waited too long" in late.text
    assert installation.connection(HARBOR).label == "never connected"


def test_a_flood_of_codes_displaces_no_consent_of_anyone_else(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        marketplace, flood = installation.pipeline.marketplace, "203.0.113.7"

        with installation.visitor() as operator:
            operator.log_in()
            operator.get("/oauth/callback?code=an-operators")
        marketplace.hold(Secret("a-customers"), "198.51.100.1")
        for number in range(MOST_OF_ADDRESS + 5):
            marketplace.hold(Secret(f"{number}"), flood)
        held = [one.address for one in marketplace.held()]
        assert held == [None, flood, "198.51.100.1", *[flood] * (MOST_OF_ADDRESS - 1)]

        # Many addresses: those that sent several give way first.
        for number in range(MOST_HELD):
            marketplace.hold(Secret(f"many-{number}"), f"10.0.0.{number}")
        held = [one.address for one in marketplace.held()]
        assert len(held) == MOST_HELD
        assert held[0] is None
        assert held.count(flood) <= 1

        with installation.visitor() as customer:
            received = customer.get("/oauth/callback?code=a-customers")
            assert "an operator of this installation has to say whose it is" in received.text
            assert customer.get(f"/oauth/callback?code={'x' * 2_001}").status_code == 400
        with installation.visitor() as operator:
            operator.log_in()
            assert operator.get("/").text.count("A consent from HighLevel is waiting") == HELD_SHOWN
