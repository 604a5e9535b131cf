"""The order of the modules, which of them a worker of pytest-xdist runs together, and which tests
are for ``make acceptance``.
"""

from pathlib import Path
from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

SHARING: Final = (
    "cli/test_up.py",
    "test_installed_package.py",
    "test_operating.py",
    "defs/test_colours_of_a_running_product.py",
    "cli/test_up_kills.py",
)
"""The modules that share ``running_product``, in their order: in the last one it is killed."""

WHOLE: Final = {"running_product", "chromium"}
"""Fixtures that start a whole product or a browser: their tests are for ``make acceptance``."""

LONG: Final = (
    *SHARING,
    "canary/test_canary.py",
    "cli/test_up_full_disk.py",
    "test_dagster_commands.py",
    "web/test_front.py",
    "defs/test_large_backfill.py",
    "marts/test_metrics.py",
    "defs/test_colours.py",
    "marts/test_build.py",
    "defs/test_sensors.py",
    "connections/test_refresh_outcome.py",
    "marts/test_build_failures.py",
    "web/test_connect.py",
    "connections/test_token_kills.py",
    "web/test_main.py",
    "cli/test_oauth_callback.py",
    "defs/test_jobs.py",
    "defs/test_retention.py",
)
"""Modules that take longest: they start first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long modules run first, the longest ahead; mark what needs a product or a browser."""
    for item in items:
        if isinstance(item, pytest.Function) and WHOLE & {*item.fixturenames}:
            item.add_marker(pytest.mark.acceptance)
    folder = Path(__file__).parents[1]
    ranks = {folder / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONG)))


class OneWorkerPerProduct(LoadFileScheduling):
    """Keeps the tests of a module together, and the modules that share the running product."""

    def _split_scope(self, nodeid: str) -> str:
        module = super()._split_scope(nodeid)
        return "running product" if module.endswith(SHARING) else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Schedule by module, with one exception, where ``--dist loadfile`` is given."""
    return OneWorkerPerProduct(config, log) if config.getoption("dist") == "loadfile" else None
