"""What is secret or personal reaches neither Dagster nor a message, nor a table or an export."""

import io
import logging
import os
from datetime import UTC, datetime, time
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from pyarrow import parquet

from voiceai_pipeline.marts.export import Format, Order, export
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_SECRET
from voiceai_pipeline_tests.support.alert_receivers import Receivers
from voiceai_pipeline_tests.support.dagster_runs import (
    COPPER,
    EXPIRE,
    execute,
    failure_of,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.planted_secrets import (
    every_secret,
    leaks,
    planted_actions,
    planted_texts,
)
from voiceai_pipeline_tests.support.product import Product
from voiceai_pipeline_tests.support.receivers import HOOK_SECRET, MAIL_PASSWORD


def test_nothing_that_is_secret_or_personal_reaches_dagster_or_a_message(
    demo: Product, receivers: Receivers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    plant(demo)
    demo.sync(demo.week)
    demo.run("build_marts", partition_key=str(demo.yesterday))
    config = {"ops": {"refresh_due_tokens": {"config": {"user_ids": [DEMO[COPPER].id]}}}}
    demo.run("refresh_tokens", run_config=config)
    demo.run("update_directory")
    demo.run("inspect_connections")
    execute(demo, EXPIRE)
    demo.run("refresh_tokens")
    receivers.hook.answers, receivers.mailbox.refusals = [500], {"AUTH": "535 no"}
    assert "email" in failure_of(demo.run("send_alerts"))
    receivers.mailbox.refusals = {}
    assert demo.run("send_alerts").success
    with demo.pipeline.engine.begin() as db:
        numbers = list(db.execute(sa.text("SELECT DISTINCT from_number FROM call_logs")).scalars())
        speech = db.execute(
            sa.text("SELECT max(transcript) FROM call_logs WHERE length(transcript) > 60")
        ).scalar_one()
        stored = db.execute(
            sa.text("SELECT refresh_token FROM api_keys WHERE refresh_token IS NOT NULL LIMIT 1")
        ).scalar_one()
    canaries = ["SANDBOX-ACCESS", "SANDBOX-REFRESH", "SANDBOX-CODE", "THIRD-PARTY-SECRET"]
    canaries += [SANDBOX_CLIENT_SECRET, stored, speech[:60], *filter(None, numbers)]
    canaries += [HOOK_SECRET, MAIL_PASSWORD, quote(MAIL_PASSWORD, safe="")]
    engine = sa.create_engine(os.environ["DAGSTER_POSTGRES_URL"])
    text = every_row(engine)
    engine.dispose()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    text += "\n".join(path.read_text(errors="replace") for path in files)
    text += "\n".join([*receivers.hook.texts, *map(str, receivers.mailbox.mails), caplog.text])
    # The scan sees what was logged and what was delivered.
    assert COPPER in text
    assert "Larch Auto Care needs action" in text
    assert [canary for canary in canaries if canary in text] == []
    # Of the secrets planted in calls none is stored or exported either.
    stored = every_row(demo.pipeline.engine)
    order = Order("calls", demo.yesterday, demo.today, demo.pipeline.zone, content=True)
    stored += exported(demo, order, Format.CSV) + exported(demo, order, Format.PARQUET)
    assert "Planted for the test" in stored
    assert leaks(text + stored, every_secret()) == []


def plant(demo: Product) -> None:
    """Add calls with secrets to yesterday."""
    noon = datetime.combine(demo.yesterday, time(12), UTC)
    translation = {"language": "Planted for the test"}
    fields = {"executedCallActions": planted_actions(), "translation": translation}
    for more in (fields, planted_texts()):
        demo.sandbox.world.calls.add(str(DEMO[COPPER].location_id), noon, **more)


def every_row(engine: sa.Engine) -> str:
    """All columns of all tables as text."""
    with engine.begin() as db:
        rows = [
            row
            for table in sa.inspect(db).get_table_names()
            for row in db.execute(sa.text(f'SELECT t::text FROM "{table}" AS t')).scalars()  # noqa: S608
        ]
    return "\n".join(map(str, rows))


def exported(demo: Product, order: Order, format_: Format) -> str:
    target = io.BytesIO()
    assert export(demo.pipeline.engine, order, format_, target)
    if format_ is Format.CSV:
        return target.getvalue().decode()
    return str(parquet.read_table(target).to_pylist())
