"""From a message to the stored call and the marked connection, in a running web process."""

from collections.abc import Iterator

import pytest

from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.sandbox.server import sending
from voiceai_pipeline.web.hint_reader import reading
from voiceai_pipeline_tests.support.hinted_calls import rows
from voiceai_pipeline_tests.support.installation import HARBOR as USER
from voiceai_pipeline_tests.support.installation import Installation
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.synced_calls import HARBOR, table
from voiceai_pipeline_tests.support.webhook_posts import PATH, call_ended, post


@pytest.fixture
def harbor(installation: Installation) -> Iterator[Installation]:
    installation.add("Harbor Dental")
    installation.connect(USER)
    with reading(installation.pipeline, installation.site.inbox):
        yield installation


def is_stored(installation: Installation, call_id: str) -> bool:
    return call_id in {row["call_id"] for row in table(installation.pipeline.engine)}


def test_a_call_is_stored_soon_after_its_message(harbor: Installation) -> None:
    call = harbor.sandbox.world.calls.add(HARBOR)
    post(harbor.url, call_ended(call, HARBOR))

    wait_until(lambda: is_stored(harbor, call["id"]))


def test_the_sandbox_announces_calls_and_removals(harbor: Installation) -> None:
    with sending(harbor.sandbox.world, harbor.url + PATH):
        call = harbor.sandbox.world.calls.add(HARBOR)
        wait_until(lambda: is_stored(harbor, call["id"]))
        harbor.sandbox.world.revoke(HARBOR)
        wait_until(lambda: harbor.connection(USER).state is ConnectionState.NEEDS_RECONNECT)

    engine = harbor.pipeline.engine
    handled = "SELECT handled_at IS NOT NULL FROM webhook_messages WHERE type = 'uninstalled'"
    wait_until(lambda: rows(engine, handled) == [(True,)])


def test_refused_messages_are_counted_in_the_database(harbor: Installation) -> None:
    post(harbor.url, b"{}", signed=False)

    query = "SELECT messages FROM webhook_refusals WHERE reason = 'unsigned'"
    wait_until(lambda: rows(harbor.pipeline.engine, query) == [(1,)])
