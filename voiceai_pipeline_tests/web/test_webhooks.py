"""The public path: what is accepted, what is refused, and what neither opens."""

import threading
from collections import Counter

import pytest
import sqlalchemy as sa

from voiceai_pipeline.core.webhook import Refusal
from voiceai_pipeline.sandbox.webhooks import message
from voiceai_pipeline.web.webhooks import MAX_BODY
from voiceai_pipeline_tests.support.hinted_calls import due, rows
from voiceai_pipeline_tests.support.installation import HARBOR as USER
from voiceai_pipeline_tests.support.installation import Installation, Open
from voiceai_pipeline_tests.support.synced_calls import HARBOR
from voiceai_pipeline_tests.support.visitor import PASSWORD
from voiceai_pipeline_tests.support.webhook_posts import PATH, call_ended, post


@pytest.fixture
def harbor(installation: Installation) -> Installation:
    installation.add("Harbor Dental")
    installation.connect(USER)
    return installation


def ended(installation: Installation) -> dict[str, object]:
    return call_ended(installation.sandbox.world.calls.add(HARBOR), HARBOR)


def test_a_signed_call_end_plans_a_read(harbor: Installation) -> None:
    answer = post(harbor.url, ended(harbor))

    assert (answer.status_code, answer.json()) == (200, {"accepted": True})
    assert [one.location_id for one in due(harbor.pipeline.engine)] == [HARBOR]
    assert harbor.site.inbox.arrived.is_set()


@pytest.mark.parametrize("signature", [{}, {"X_GHL_Signature": "N/A"}, {"X_WH_Signature": "c2ln"}])
def test_a_message_without_a_valid_signature_is_refused_and_counted(
    harbor: Installation, signature: dict[str, str]
) -> None:
    answer = post(harbor.url, ended(harbor), signed=False, **signature)

    assert (answer.status_code, answer.json()["error"]) == (401, "unsigned")
    assert due(harbor.pipeline.engine) == []
    assert harbor.site.inbox.take_refusals() == {Refusal.UNSIGNED: 1}


def test_a_message_about_another_app_is_answered_and_has_no_consequence(
    harbor: Installation,
) -> None:
    answer = post(harbor.url, ended(harbor) | {"appId": "65f0c0ffee0000000000beef"})

    assert (answer.status_code, answer.json()["accepted"]) == (200, False)
    assert due(harbor.pipeline.engine) == []


def test_locations_and_types_that_are_not_ours_are_answered_with_success(
    harbor: Installation,
) -> None:
    other = post(harbor.url, message("ContactCreate", 0, locationId=HARBOR))
    elsewhere = post(harbor.url, ended(harbor) | {"locationId": "LocOfAnotherApp00000"})

    assert {other.status_code, elsewhere.status_code} == {200}
    assert due(harbor.pipeline.engine) == []
    counted = rows(harbor.pipeline.engine, "SELECT type, is_ours FROM webhook_messages ORDER BY 1")
    assert counted == [("call_ended", False), ("other", True)]


@pytest.mark.parametrize(("body", "status"), [(b"[]", 400), (b"x" * (MAX_BODY + 1), 413)])
def test_what_is_no_message_is_refused(harbor: Installation, body: bytes, status: int) -> None:
    assert post(harbor.url, body).status_code == status


def test_a_megabyte_is_accepted(harbor: Installation) -> None:
    body = ended(harbor)
    body["transcript"] = "x" * (MAX_BODY - 2000)

    assert post(harbor.url, body).status_code == 200


def test_messages_that_arrive_together_are_each_kept_once(harbor: Installation) -> None:
    body = ended(harbor)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(post(harbor.url, body).status_code))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(answers) == {200: 20}
    assert rows(harbor.pipeline.engine, "SELECT count(*) FROM webhook_messages") == [(1,)]


def test_while_the_database_is_away_highlevel_is_asked_to_send_again(harbor: Installation) -> None:
    with harbor.pipeline.engine.begin() as db:
        db.execute(sa.text("ALTER TABLE webhook_messages RENAME TO hidden"))

    answer = post(harbor.url, ended(harbor))

    assert answer.status_code == 503
    assert "Send it again" in answer.json()["message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_the_path_takes_messages_only(harbor: Installation, method: str) -> None:
    with harbor.visitor() as visitor:
        answer = visitor.session.request(method, harbor.url + PATH, timeout=30)

    assert answer.status_code in (404, 405)


@pytest.mark.parametrize("path", [PATH + "/", PATH + "/../../", "/webhooks", "/webhooks/other"])
def test_nothing_beside_the_path_is_open_without_a_login(open_page: Open, path: str) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation, installation.visitor() as visitor:
        answer = visitor.get(path, follow=False)

    assert answer.status_code in (303, 307, 404)
    assert "Harbor" not in answer.text


def test_the_path_needs_no_login(open_page: Open) -> None:
    with open_page(VOICEAI_PAGE_SECRET=PASSWORD) as installation:
        assert post(installation.url, message("ContactCreate", 0)).status_code == 200
