"""What is secret or personal reaches neither Dagster nor a message."""

import logging
import os
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_SECRET
from voiceai_pipeline_tests.support.alert_receivers import Receivers
from voiceai_pipeline_tests.support.dagster_runs import (
    COPPER,
    EXPIRE,
    execute,
    failure_of,
)
from voiceai_pipeline_tests.support.demo_users import DEMO
from voiceai_pipeline_tests.support.product import Product
from voiceai_pipeline_tests.support.receivers import HOOK_SECRET, MAIL_PASSWORD


def test_nothing_that_is_secret_or_personal_reaches_dagster_or_a_message(
    demo: Product, receivers: Receivers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    demo.sync(demo.week)
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
    with engine.begin() as db:
        tables = sa.inspect(db).get_table_names()
        text = "\n".join(
            str(row)
            for table in tables
            for row in db.execute(sa.text(f'SELECT t::text FROM "{table}" AS t')).scalars()  # noqa: S608
        )
    engine.dispose()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    text += "\n".join(path.read_text(errors="replace") for path in files)
    text += "\n".join([*receivers.hook.texts, *map(str, receivers.mailbox.mails), caplog.text])
    # The scan sees what was logged and what was delivered.
    assert COPPER in text
    assert "Larch Auto Care needs action" in text
    assert [canary for canary in canaries if canary in text] == []
