"""Both databases of an installation with many users and three years of days, filled by SQL."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import dagster as dg
import sqlalchemy as sa

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database import migrate
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.sandbox.cast import SANDBOX_CLIENT_ID, SANDBOX_CLIENT_SECRET

DAYS: Final = 3 * 365
FULL_DAYS: Final = 30
"""The last days, which every user has in the ledger; earlier ones only every tenth user has."""

KEY: Final = "bench:a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
TODAY: Final = datetime.now(UTC).date()
FIRST: Final = TODAY - timedelta(days=DAYS)


# The world ---------------------------------------------------------------------------------------


@contextmanager
def world(users: int, first: date = FIRST) -> Iterator[EmbeddedPostgres]:
    """Both databases, filled from ``first`` on; sets the environment variables that name them."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        server = stack.enter_context(EmbeddedPostgres.hold(home, durable=False))
        for name in ("voiceai", "dagster"):
            server.create_database(name)
        os.environ.update(
            VOICEAI_HOME=str(home),
            VOICEAI_DATABASE_URL=server.url("voiceai"),
            VOICEAI_TOKEN_KEYS=KEY,
            VOICEAI_START_DATE=first.isoformat(),
            DAGSTER_POSTGRES_URL=server.url("dagster", driver="psycopg2"),
            DAGSTER_HOME=str(PROJECT),
            HIGHLEVEL_CLIENT_ID=SANDBOX_CLIENT_ID,
            HIGHLEVEL_CLIENT_SECRET=SANDBOX_CLIENT_SECRET,
            PYTHONWARNINGS="ignore",  # Dagster's, about beta features
        )
        engine = open_engine(Secret(server.url("voiceai")))
        migrate.upgrade(engine)
        fill(engine, users, first)
        engine.dispose()
        yield server


def fill(engine: sa.Engine, users: int, first: date) -> None:
    """Users with a location and a token each, and what was synced for them."""
    vault = TokenVault({"bench": b"k" * 32})
    ids = [UUID(int=(4 << 76) | (8 << 60) | n) for n in range(1, users + 1)]
    with engine.begin() as db:
        db.execute(
            sa.text("INSERT INTO users (id, business_name) VALUES (:id, :name)"),
            [{"id": one, "name": f"Business {n:05}"} for n, one in enumerate(ids)],
        )
        db.execute(
            sa.text(
                "INSERT INTO api_keys (id, user_id, name, service, access_token, refresh_token, "
                "token_expires_at, location_id, is_active, connection_state, scope, user_type, "
                "refresh_at) VALUES (:id, :id, 'HighLevel', 'highlevel', :access, :refresh, "
                "now() + interval '20 hours', :location, true, 'connected', "
                "'voice-ai-dashboard.readonly', 'Location', now() + interval '19 hours')"
            ),
            [
                {
                    "id": one,
                    "location": f"Loc{n:017}",
                    "access": vault.encrypt(Secret(f"access-{n}"), "access_token", one),
                    "refresh": vault.encrypt(Secret(f"refresh-{n}"), "refresh_token", one),
                }
                for n, one in enumerate(ids)
            ],
        )
        db.execute(
            sa.text(
                "INSERT INTO sync_ledger (user_id, location_id, day, state, message, read_until, "
                "api_total, stored, pages, run_id, started_at, finished_at) "
                "SELECT k.user_id, k.location_id, d::date, 'complete', '', d + interval '1 day', "
                "5, 5, 1, gen_random_uuid(), d + interval '1 day', d + interval '25 hours' "
                "FROM api_keys k, generate_series(CAST(:first AS timestamptz), "
                "     CAST(:last AS timestamptz), interval '1 day') d "
                "WHERE d >= CAST(:full AS timestamptz) OR k.location_id LIKE '%0'"
            ),
            {
                "first": f"{first}T00:00Z",
                "last": f"{TODAY - timedelta(days=1)}T00:00Z",
                "full": f"{TODAY - timedelta(days=FULL_DAYS)}T00:00Z",
            },
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(sa.text("VACUUM ANALYZE"))


def record_history() -> None:
    """Record three years of materialized days, and a partition for every user: one event of each
    asset by Dagster, and copies of it by SQL."""
    with dg.DagsterInstance.get() as instance:
        for asset, key in (
            ("call_logs", FIRST.isoformat()),
            ("sync_status", FIRST.isoformat()),
            ("user_tokens", "USER"),
        ):
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))
    engine = sa.create_engine(os.environ["DAGSTER_POSTGRES_URL"])
    copy = (
        "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, "
        "asset_key, partition) SELECT e.run_id, replace(e.event, e.partition, k.key), "
        "e.dagster_event_type, e.timestamp, e.step_key, e.asset_key, k.key FROM event_logs e, ({}) "
        "k(key) WHERE e.asset_key = :asset AND e.partition = :first AND k.key <> :first"
    )
    days = (
        "SELECT to_char(d, 'YYYY-MM-DD') FROM generate_series(CAST(:start AS timestamptz), "
        "CAST(:stop AS timestamptz), interval '1 day') d"
    )
    keys = "SELECT partition FROM dynamic_partitions"
    with engine.begin() as db:
        span = {"start": f"{FIRST}T00:00Z", "stop": f"{TODAY - timedelta(days=1)}T00:00Z"}
        for asset in ("call_logs", "sync_status"):
            values = {"asset": f'["{asset}"]', "first": FIRST.isoformat(), **span}
            db.execute(sa.text(copy.format(days)), values)
        values = {"asset": '["user_tokens"]', "first": "USER"}
        db.execute(sa.text(copy.format(keys)), values)
        db.execute(sa.text("DELETE FROM event_logs WHERE partition = 'USER'"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
    engine.dispose()
