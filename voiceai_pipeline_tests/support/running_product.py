"""One product, installed from the wheel, for every module that needs a running one.

Starting it and reading its eight weeks takes longer than most modules. ``order.py`` says which
share it: each leaves it as the next one can use it, and each can also be run alone.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pytest

from voiceai_pipeline_tests.support.processes import wait_until
from voiceai_pipeline_tests.support.today import zone_of_a_product
from voiceai_pipeline_tests.support.up import Up, ended, partition_stats

ELSEWHERE: Final = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "PGSERVICE": "nowhere",
    "PGTZ": "America/New_York",
    "PGOPTIONS": "-c search_path=nowhere",
}
"""What a shell may say for other programs: no request to this machine goes there (S15)."""


@pytest.fixture(scope="session")
def product_zone() -> ZoneInfo:
    """The time zone of the product's days."""
    return zone_of_a_product()


@pytest.fixture(scope="session")
def product_day(product_zone: ZoneInfo) -> date:
    """The day on which the product starts, which does not end before its tests do."""
    return datetime.now(product_zone).date()


@pytest.fixture(scope="session")
def week(product_day: date) -> list[date]:
    """The last days of the demo; the last of them is not over."""
    return [product_day - timedelta(days=ago) for ago in range(6, -1, -1)]


@pytest.fixture(scope="session")
def running_product(
    product_zone: ZoneInfo, wheel_environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Up]:
    """The product after the demo's eight weeks were read: one day is red."""
    folder = tmp_path_factory.mktemp("empty")
    # The tests' environment may name the repository.
    env = {**ELSEWHERE, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    env["VOICEAI_TIMEZONE"] = product_zone.key
    program = str(wheel_environment / "bin" / "voiceai-pipeline")
    with ended(Up(folder / ".voiceai", env, program=program)) as product:
        product.start()
        wait_until(lambda: is_read(product), seconds=600)
        yield product


def is_read(product: Up) -> bool:
    stats = partition_stats(product.url)
    return (stats["numMaterialized"], stats["numFailed"]) == (55, 1)
