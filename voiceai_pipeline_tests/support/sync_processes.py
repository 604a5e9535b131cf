"""Syncs in processes of their own, to be killed or to run at the same time."""

import multiprocessing
from datetime import date, datetime

from voiceai_pipeline.calls.sync import WORKERS, Mode, Sync
from voiceai_pipeline.connections.tokens import Tokens
from voiceai_pipeline.connections.vault import TokenVault
from voiceai_pipeline.core.secret import Secret
from voiceai_pipeline.database.engine import open_engine
from voiceai_pipeline.highlevel.client import HighLevelClient
from voiceai_pipeline_tests.support.highlevel import highlevel_settings
from voiceai_pipeline_tests.support.keys import KEYS
from voiceai_pipeline_tests.support.synced_calls import UTC_ZONE

processes = multiprocessing.get_context("forkserver")

processes.set_forkserver_preload(["voiceai_pipeline_tests.support.token_processes", __name__])


def sync_in_a_process(
    database: str,
    url: str,
    now: str,
    days: list[date],
    times: int = 1,
    mode: Mode = Mode.REREAD,
    workers: int = WORKERS,
) -> None:
    """Sync ``days`` at the fixed time ``now``, several times; runs in a process of its own."""
    engine = open_engine(Secret(database))
    fixed = datetime.fromisoformat(now)
    with HighLevelClient(highlevel_settings(url)) as client:
        tokens = Tokens(engine, TokenVault(KEYS), client, now=lambda: fixed)
        sync = Sync(engine, tokens, client, UTC_ZONE, now=lambda: fixed, workers=workers)
        for _ in range(times):
            sync.sync_days(days, mode=mode)
    engine.dispose()
