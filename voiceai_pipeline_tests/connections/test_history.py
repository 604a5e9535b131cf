"""The history of a connection: complete, append-only and free of tokens."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from voiceai_pipeline.connections import (
    history,
)
from voiceai_pipeline.connections.history import TokenEvent
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline.sandbox.server import RunningSandbox
from voiceai_pipeline_tests.support.clock import Clock
from voiceai_pipeline_tests.support.demo_users import Connector


def test_the_history_is_append_only(connect: Connector, engine: sa.Engine) -> None:
    connect("Harbor Dental")
    for change in (
        "UPDATE token_events SET detail = 'nothing happened'",
        "DELETE FROM token_events",
        "TRUNCATE token_events",
    ):
        with pytest.raises(sa.exc.DBAPIError, match="can only be added to"), engine.begin() as db:
            db.execute(sa.text(change))


def test_the_history_records_actor_event_and_generation_and_holds_no_token(
    connect: Connector,
    engine: sa.Engine,
    vault: TokenVault,
    client: HighLevelClient,
    clock: Clock,
    sandbox: RunningSandbox,
) -> None:
    user = connect("Harbor Dental")
    run = Tokens(engine, vault, client, actor=history.Actor("dagster", "run-1"), now=clock)
    clock.now += timedelta(days=2)
    run.get_valid_token(user.user.id)
    sandbox.world.revoke(user.location_id or "")
    assert run.check(user.user.id).failure is not None
    with engine.begin() as db:
        entries = history.of_user(db, user.user.id)
        dump = str(db.execute(sa.text("SELECT * FROM token_events")).all())
    assert [(e.event, e.actor, e.run_id) for e in entries] == [
        (TokenEvent.TESTED, "dagster", "run-1"),
        (TokenEvent.REFRESH_FAILED, "dagster", "run-1"),
        (TokenEvent.REFRESHED, "dagster", "run-1"),
        (TokenEvent.CONNECTED, "pipeline", None),
    ]
    refreshed = entries[2]
    assert (refreshed.version_before, refreshed.version_after) == (1, 2)
    assert refreshed.trace_id
    assert "SANDBOX-" not in dump
    prints = {e["fingerprint"] for e in _rows(engine) if e["fingerprint"]}
    assert len(prints) == 2


def _rows(engine: sa.Engine) -> list[dict[str, Any]]:
    with engine.connect() as db:
        return [dict(r) for r in db.execute(sa.text("SELECT * FROM token_events")).mappings()]


def test_a_fingerprint_is_keyed(vault: TokenVault) -> None:
    token, stranger = Secret("INVENTED"), TokenVault({"other": b"o" * 32})
    assert vault.fingerprint(token) == vault.fingerprint(token)
    assert vault.fingerprint(token) != stranger.fingerprint(token)
