"""Rows of an older version, redacted again."""

import hashlib
import json
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec import Raw

from voiceai_pipeline.calls import call_store, row_passes, stored_redaction
from voiceai_pipeline.calls.call_store import Written
from voiceai_pipeline.calls.intake import Intake
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.call import ListedCall
from voiceai_pipeline.database.tables import agents, call_logs, set_aside_calls
from voiceai_pipeline.highlevel.calls import call_of, call_or_set_aside, head_of
from voiceai_pipeline_tests.support.planted_secrets import (
    every_secret,
    leaks,
    planted_actions,
    planted_texts,
)
from voiceai_pipeline_tests.support.statements import bound

LOCATION = "LocInvented000000001"
START = datetime(2026, 11, 20, tzinfo=UTC)
STORED_AT = START + timedelta(days=1)
READ_AT = START + timedelta(days=2)


def item(number: int, **fields: Any) -> dict[str, Any]:
    created = START + timedelta(minutes=number)
    head = {"id": f"call-{number:04}", "createdAt": created.isoformat()}
    return head | {"duration": 1e-7, "translation": None} | fields


def items() -> list[dict[str, Any]]:
    """Calls with secrets, without, and with what looks like a change but is none."""
    texts = planted_texts()
    plain = [item(number, summary=f"Call {number}") for number in range(3, 9)]
    acted = item(2, executedCallActions=planted_actions(), transcript=SAID)
    return [item(1, **texts), acted, *plain]


SAID = "human:My word is xylophone"
ASIDE = [
    {"id": "a", "transcript": SAID, "secretless": [{"auth": secret}]}
    for secret in every_secret()[:2]
]


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.fixture
def old_rows(engine: sa.Engine) -> sa.Engine:
    """Rows as a version without redaction stored them, whose pass has not begun."""
    with engine.begin() as db:
        for each in items():
            hashed = hashlib.sha256(canonical(each)).digest()
            db.execute(
                sa.insert(call_logs).values(
                    location_id=LOCATION, call_id=each["id"],
                    started_at=datetime.fromisoformat(each["createdAt"]),
                    summary=each.get("summary"), transcript=each.get("transcript"),
                    extracted_data=each.get("extractedData", sa.null()), raw=each,
                    executed_call_actions=each.get("executedCallActions", []),
                    content_hash=hashed, fingerprint=b"of an older label",
                    first_seen_at=STORED_AT, last_changed_at=STORED_AT,
                )
            )  # fmt: skip
        for number, each in enumerate(ASIDE):
            db.execute(
                sa.insert(set_aside_calls).values(
                    location_id=LOCATION, content_hash=bytes([number]) * 32, reason="no time",
                    raw=each, first_seen_at=STORED_AT, last_seen_at=STORED_AT,
                )
            )  # fmt: skip
        db.execute(
            sa.insert(agents).values(
                location_id=LOCATION, agent_id="a", name="Front desk", first_seen_at=STORED_AT,
                last_seen_at=STORED_AT, raw={"id": "a", "actions": planted_actions()},
            )
        )  # fmt: skip
        db.execute(sa.text("DELETE FROM redaction_progress"))
    return engine


def everything(engine: sa.Engine) -> str:
    with engine.begin() as db:
        tables = sa.inspect(db).get_table_names()
        rows = (db.execute(sa.text(f'SELECT t::text FROM "{each}" t')).scalars() for each in tables)  # noqa: S608
        return "\n".join(line for each in rows for line in each).replace('""', '"')


def versions(engine: sa.Engine) -> dict[str, tuple[Any, ...]]:
    query = "SELECT call_id, xmin::text, first_seen_at, last_changed_at, raw::text FROM call_logs"
    with engine.begin() as db:
        return {row.call_id: tuple(row) for row in db.execute(sa.text(query))}


def reread(engine: sa.Engine, vault: TokenVault) -> tuple[Intake, Written]:
    """A re-read that lists the same calls."""
    intake = Intake(engine, LOCATION, [START], call_of, vault.call_fingerprint, READ_AT)
    with closing(intake):
        sent = [call_or_set_aside(head_of(Raw(canonical(each)))) for each in items()]
        intake.take([one for one in sent if isinstance(one, ListedCall)])
        intake.finish(START + timedelta(days=1))
        with engine.begin() as db:
            call_store.lock_locations(db, [LOCATION])
            (written,) = call_store.store(db, [intake], READ_AT)
    return intake, written


def test_stored_rows_are_redacted_once_and_analysts_see_no_change(
    old_rows: sa.Engine, vault: TokenVault
) -> None:
    assert set(leaks(everything(old_rows), every_secret())) == set(every_secret())
    before, shown = versions(old_rows), list[tuple[int, int]]()

    changed = stored_redaction.redact_again(old_rows, lambda *done: shown.append(done))

    after = versions(old_rows)
    # Two calls, two items of which one has become the other's twin, and the agent.
    assert (changed, shown[-1]) == (5, (11, 11))
    assert leaks(everything(old_rows), every_secret()) == []
    for call_id in before:
        assert after[call_id][2:4] == (STORED_AT, STORED_AT)
        is_plain = call_id not in ("call-0001", "call-0002")
        assert (after[call_id] == before[call_id]) == is_plain
    with old_rows.begin() as db:
        assert not stored_redaction.is_pending(db)
        assert db.execute(sa.text("SELECT count(*) FROM set_aside_calls")).scalar() == 1
        nulls = "SELECT count(*) FROM call_logs WHERE translation IS NOT NULL"
        assert db.execute(sa.text(nulls)).scalar() == 0
    assert stored_redaction.redact_again(old_rows) == 0

    # The next read finds every call as the table holds it, and writes nothing.
    _, written = reread(old_rows, vault)
    assert (written.new, written.changed, written.missing) == ([0], [0], [0])
    assert versions(old_rows) == after


def test_what_calls_say_is_in_no_statement(old_rows: sa.Engine) -> None:
    with bound(old_rows) as statements:
        assert stored_redaction.redact_again(old_rows) == 5
    assert len(statements) > 10
    assert [one for one in statements if "xylophone" in one or leaks(one, every_secret())] == []
    with old_rows.begin() as db:
        query = "SELECT transcript FROM call_logs WHERE call_id = 'call-0002'"
        assert db.execute(sa.text(query)).scalar_one() == SAID
        (aside,) = db.execute(sa.text("SELECT raw FROM set_aside_calls")).scalars()
    assert aside["transcript"] == SAID


def test_a_pass_that_was_stopped_goes_on_where_it_was(
    old_rows: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_passes, "_BATCH", 3)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        stored_redaction.redact_again(old_rows, stop)
    with old_rows.begin() as db:
        reached = db.execute(sa.text("SELECT row_id FROM redaction_progress")).scalars().all()
        assert stored_redaction.is_pending(db)
    assert reached == ["call-0003"]

    shown = list[tuple[int, int]]()
    stored_redaction.redact_again(old_rows, lambda *done: shown.append(done))
    assert shown[-1] == (8, 8)
    assert leaks(everything(old_rows), every_secret()) == []


def test_a_call_that_a_sync_writes_meanwhile_is_not_overwritten(
    old_rows: sa.Engine, vault: TokenVault
) -> None:
    with old_rows.begin() as db:
        call_store.lock_locations(db, [LOCATION])
        db.execute(
            sa.text("UPDATE call_logs SET raw = '{}', summary = 'new' WHERE call_id LIKE '%1'")
        )
        with old_rows.begin() as other:
            other.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(sa.exc.OperationalError):
                row_passes.visit_batch(other, stored_redaction.PASSES[0])
    stored_redaction.redact_again(old_rows)
    with old_rows.begin() as db:
        query = "SELECT raw, summary FROM call_logs WHERE call_id LIKE '%1'"
        kept = db.execute(sa.text(query)).one()
    assert kept == (None, "new")


def test_an_empty_database_has_nothing_to_redact(engine: sa.Engine) -> None:
    with engine.begin() as db:
        assert not stored_redaction.is_pending(db)
