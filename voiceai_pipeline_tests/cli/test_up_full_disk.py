"""``up`` on a disk that fills: everything is in one home, also what it says itself."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from voiceai_pipeline.database.embedded import is_running
from voiceai_pipeline.web.dagster_client import ENDED, Dagster
from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.small_disk import SmallDisk, mounted
from voiceai_pipeline_tests.support.up import Up, answers, ended

pytestmark = pytest.mark.acceptance

HARBOR: Final = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "small", 800) as disk:
        yield disk


def sync_now(product: Up) -> list[str]:
    """Press *Sync now* on the page; the run of it, none while something is not back yet."""
    with requests.Session() as browser:
        token = re.search(r'name="form_token" value="([^"]+)"', browser.get(product.page).text)
        if token is None:
            return []
        pressed = browser.post(
            f"{product.page}/users/{HARBOR}/sync", data={"form_token": token[1]}, timeout=60
        )
    return re.findall(rf"{product.url}/runs/([0-9a-f-]{{36}})", pressed.text)


def has_synced(product: Up, day: date) -> bool:
    query = "SELECT count(*) FROM sync_ledger WHERE state = 'complete' AND day = "
    return product.ask(f"{query}'{day}'") == [(8,)]


def stored(product: Up) -> tuple[set[Any], dict[Any, int]]:
    """The calls, and each user's generation of tokens."""
    calls = product.ask("SELECT location_id, call_id FROM call_logs")
    return set(calls), dict(product.ask("SELECT user_id, token_version FROM api_keys"))


def test_up_outlives_a_full_disk_and_goes_on_automatically(small_disk: SmallDisk) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    env = {"VOICEAI_START_DATE": str(yesterday)}
    with ended(Up(small_disk.folder / "home", env)) as product:
        product.start()
        wait_until(lambda: has_synced(product, yesterday))
        calls, generations = stored(product)

        def is_named() -> bool:
            """A server that starts all the same, with what another program has freed, is killed."""
            small_disk.fill()
            postmaster = product.home / "postgres/data/postmaster.pid"
            with contextlib.suppress(OSError, IndexError, ValueError):
                os.kill(int(postmaster.read_text().split()[0]), signal.SIGKILL)
            assert product.process is not None
            assert product.process.poll() is None, product.output
            return f"The disk of {product.home} is full; free some space" in product.output

        small_disk.fill()
        product.child("dagster._daemon").kill()
        wait_until(is_named)
        front = requests.get(product.page, timeout=60)
        assert front.status_code == 503
        assert "The disk of the database is full" in front.text
        assert answers(f"{product.page}/health")

        small_disk.free()
        wait_until(lambda: is_running(product.home))
        calls_now, generations_now = stored(product)
        assert calls_now >= calls
        assert all(generations_now[user] >= known for user, known in generations.items())
        wait_until(lambda: answers(f"{product.url}/server_info"))
        runs: list[str] = []
        wait_until(lambda: runs.extend(sync_now(product)) or runs)
        dagster = Dagster(product.url)

        def status() -> str | None:
            run = dagster.run(runs[0])
            return run.status if run and run.status in ENDED else None

        wait_until(status)
        assert status() == "SUCCESS"
        assert product.interrupt() == 0
