"""What shows while a sync runs: on every open page, without a reload."""

import json
from collections.abc import Iterator
from typing import Any

import requests

from voiceai_pipeline.calls import user_syncs
from voiceai_pipeline.calls.user_syncs import SyncState
from voiceai_pipeline_tests.support.installation import HARBOR, Installation, Open
from voiceai_pipeline_tests.support.processes import wait_until


def events(answer: requests.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines(decode_unicode=True):
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def state(installation: Installation) -> SyncState:
    with installation.pipeline.engine.begin() as db:
        return user_syncs.of_user(db, HARBOR, 1)[0].state


def test_a_sync_shows_from_the_queue_to_its_end_on_a_page_that_is_open(
    installation: Installation,
) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    dagster = installation.dagster
    with (
        installation.visitor() as visitor,
        requests.get(f"{installation.url}/live?back=/", stream=True, timeout=30) as watching,
    ):
        seen = events(watching)
        visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})
        queued = next(seen)
        dagster.statuses[dagster.run_ids[0]] = "STARTED"
        running = next(seen)
        dagster.statuses[dagster.run_ids[0]] = "SUCCESS"
        ended = next(seen)
        page = visitor.get(f"/users/{HARBOR}").text

    assert queued["user"] == str(HARBOR)
    assert ">queued<" in queued["html"]
    assert "by connections page" in queued["html"]
    assert ">running<" in running["html"]
    assert ": 0 of 5 days" in running["html"] or ": 0 of 4 days" in running["html"]
    assert "Cancel the sync: Harbor Dental" in running["html"]
    assert "Cancel" not in ended["html"]
    assert ">complete<" in page


def test_a_second_click_starts_no_second_sync(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})
        again = visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})

    assert len(installation.dagster.launched) == 1
    assert "Harbor Dental: is being synced already" in again.text
    assert installation.dagster.run_ids[0][:8] in again.text


def test_a_sync_is_canceled_in_place(installation: Installation) -> None:
    installation.add("Harbor Dental")
    installation.connect(HARBOR)
    with installation.visitor() as visitor:
        visitor.post(f"/users/{HARBOR}/sync", {"back": "/"})
        canceled = visitor.post(f"/users/{HARBOR}/cancel", {"back": "/"})
        wait_until(lambda: state(installation) is SyncState.CANCELED)
        late = visitor.post(f"/users/{HARBOR}/cancel", {"back": "/"})

    assert "Harbor Dental: sync is being canceled" in canceled.text
    assert "Harbor Dental: nothing to cancel" in late.text


def test_a_stream_ends_with_its_session(open_page: Open) -> None:
    secret = {"VOICEAI_PAGE_SECRET": "correct horse battery"}
    with open_page(**secret) as installation, installation.visitor() as visitor:
        visitor.log_in()
        stream = visitor.session.get(f"{installation.url}/live", stream=True, timeout=30)
        stranger = requests.get(f"{installation.url}/live", allow_redirects=False, timeout=30)
        visitor.post("/logout")
        rest = list(stream.iter_lines())

    assert stranger.status_code == 303
    assert stream.status_code == 200
    assert rest[0] == b"retry: 3000"
