"""The sandbox's users: added to the database and connected as a browser would."""

from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import requests

from voiceai_pipeline.connections import queries as connections
from voiceai_pipeline.core.connection import ConnectionState
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.transport import open_session
from voiceai_pipeline.pipeline import Pipeline
from voiceai_pipeline.sandbox.cast import DEMO_USERS, DemoUser
from voiceai_pipeline.sandbox.demo import authorize


def connect_demo_users(pipeline: Pipeline, sandbox: str, report: Callable[[str], None]) -> None:
    """Add the twelve demo users and connect those that are to be connected and never were; then
    revoke one and pause one. Does nothing if the database has users of its own.

    Args:
        sandbox: its address.

    Raises:
        requests.RequestException, ValueError: the sandbox did not answer as expected.
    """
    new = _add(pipeline)
    if new is None:
        report("Sandbox: the database has users of its own, so no demo users are added")
    elif new:
        report(f"Sandbox: connecting {len(new)} demo users through its OAuth pages")
        with open_session() as browser:
            for demo in new:
                _connect(pipeline, browser, demo)
                _cause_trouble(browser, sandbox, demo)


def _add(pipeline: Pipeline) -> Sequence[DemoUser] | None:
    """Add the demo users; return those to connect, or None if the database has other users."""
    with pipeline.engine.begin() as db:
        demo_ids = {UUID(demo.id) for demo in DEMO_USERS}
        if any(one.user.id not in demo_ids for one in connections.all_connections(db)):
            return None
        for demo in DEMO_USERS:
            connections.add_user(
                db,
                UUID(demo.id),
                business_name=demo.business_name,
                first_name=demo.first_name,
                last_name=demo.last_name,
            )
        states = {str(one.user.id): one.state for one in connections.all_connections(db)}
    return [
        demo
        for demo in DEMO_USERS
        if states[demo.id] is ConnectionState.NEVER_CONNECTED and demo.role != "never_connected"
    ]


def _connect(pipeline: Pipeline, browser: requests.Session, demo: DemoUser) -> None:
    page = f"{pipeline.client.authorize_url('demo')}&user={demo.id}"
    callback = authorize(browser, page, demo.installs_on)
    code = parse_qs(urlsplit(callback).query)["code"][0]
    pipeline.consent.connect(UUID(demo.id), Secret(code))


def _cause_trouble(browser: requests.Session, sandbox: str, demo: DemoUser) -> None:
    trouble = {"revoked": "revoke", "paused": "pause"}.get(demo.role)
    if trouble:
        browser.post(
            f"{sandbox}/sandbox/{trouble}", json={"location_id": demo.location_id}, timeout=10
        ).raise_for_status()
